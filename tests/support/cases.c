/* Shapes that have gone wrong in somebody's kernels: one row, one column, odd lengths, just below and above a
 * block, skinny products, pitches, groups of heads. */
#include "tests/support/cases.h"

#define COUNT(table) ((int)(sizeof(table) / sizeof(table)[0]))

const MatmulCase matmul_cases[] = {
    {"1x1x1", 1, 1, 1, false, false, 1, 0, 0},
    {"forward", 65, 48, 32, false, true, 1, 0, 0},
    {"forward, residual", 65, 48, 32, false, true, 1, 1, 0},
    {"backward to x", 33, 64, 96, false, false, 1, 1, 24},
    {"backward to w", 172, 64, 512, true, false, 1, 0, 0},
    {"backward to w, adds", 172, 64, 512, true, false, 1, 1, 24},
    {"both transposed", 31, 29, 37, true, true, 0.5f, 0.25f, 24},
    {"one row", 1, 700, 64, false, true, 1, 0, 24},
    {"one row of a transposed", 1, 33, 64, true, false, 2, 1, 24},
    {"one row, untransposed", 1, 64, 100, false, false, 1, 1, 0},
    {"one column", 130, 1, 64, false, true, 1, 0, 24},
    {"rank 8", 300, 8, 64, false, true, 1, 0, 0},
    {"rank 8 back", 64, 8, 300, true, false, -1, 1, 24},
    {"inner 1", 20, 20, 1, false, true, 1, 0, 0},
    {"no rows", 0, 8, 8, false, true, 1, 0, 0},
    {"many tiles", 700, 500, 64, false, true, 1, 0, 0},
    {"wide, several tiles across", 4, 9000, 128, false, true, 1, 0, 24},
    {"one row, several tiles", 1, 20000, 256, false, true, 1, 1, 24},
    {"wide, untransposed", 8, 4500, 128, false, false, 1, 0, 24},
    {"a gradient of few rows", 64, 172, 1024, true, false, 1, 0, 0},
};
const int n_matmul_cases = COUNT(matmul_cases);

const RowsCase rows_cases[] = {
    {"1x1", 1, 1, 0},
    {"one row", 1, 100, 0},
    {"narrow", 50, 3, 0},
    {"even", 64, 64, 0},
    {"odd", 37, 61, 0},
    {"pitch", 37, 61, 24},
    {"no rows", 0, 16, 0},
    {"long rows", 5, 4099, 0},
    {"many rows", 3000, 40, 24},
    {"whole vectors, pitch", 21, 2056, 8},
    {"as wide as registers", 3, 8192, 0},
    {"wider", 2, 8200, 4},
};
const int n_rows_cases = COUNT(rows_cases);

const HeadsCase heads_cases[] = {
    {"one token", 1, 1, 2, 1, {1}, 0},
    {"one document", 2, 2, 8, 1, {17}, 0},
    {"documents of one token", 2, 1, 4, 5, {1, 1, 1, 1, 1}, 0},
    {"packed, odd lengths", 4, 4, 8, 5, {1, 7, 64, 3, 33}, 24},
    {"groups of 2", 4, 2, 16, 3, {65, 2, 31}, 0},
    {"groups of 4, pitch", 4, 1, 6, 3, {63, 5, 130}, 24},
    {"blocks and one more", 3, 3, 10, 2, {129, 64}, 0},
    {"width 64", 2, 1, 64, 2, {40, 71}, 24},
    {"width 128", 2, 1, 128, 2, {9, 66}, 0},
    {"many heads of width 128, pitch", 32, 8, 128, 2, {3, 2}, 48},
    {"width 80", 6, 2, 80, 1, {5}, 8},
    {"width 256", 3, 3, 256, 1, {4}, 0},
};
const int n_heads_cases = COUNT(heads_cases);

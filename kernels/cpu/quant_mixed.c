/* LLM.int8's product: kernels.h, quant_mixed. */
#include "kernels/cpu/cpu.h"
#include "kernels/scratch.h"
#include "tensor/convert.h"

#include <math.h>
#include <string.h>

typedef struct Mixed {
    const QuantPart *q;
    const float *x, *add;
    float *y;
    int64_t n, ldx, ldy, ld_add;
    float threshold;
    const int8_t *w; /* codes (rows, cols) */
    const float *scb;
    int8_t *codes; /* of x (n, pitch) */
    float *absmax;
    uint8_t *flags;
    int32_t *list;
    int64_t pitch;
} Mixed;

static float in_f16(float x)
{
    return f16_to_f32(f16_from_f32(x));
}

static void find_outliers(const Mixed *a)
{
    int64_t cols = a->q->cols;
    memset(a->flags, 0, (size_t)cols);
    for (int64_t t = 0; t < a->n; t++)
        for (int64_t i = 0; i < cols; i++)
            if (fabsf(in_f16(a->x[t * a->ldx + i])) >= a->threshold) a->flags[i] = 1;
    a->list[0] = 0;
    for (int64_t i = 0; i < cols; i++)
        if (a->flags[i]) a->list[1 + a->list[0]++] = (int32_t)i;
}

/* The rest of an outlier's column counts for the absmax, as in the package, though it is not coded. */
static void encode_rows(void *ud, int64_t row0, int64_t row1)
{
    const Mixed *a = ud;
    int64_t cols = a->q->cols;
    for (int64_t t = row0; t < row1; t++) {
        const float *x = a->x + t * a->ldx;
        int8_t *code = a->codes + t * a->pitch;
        float most = 0;
        for (int64_t i = 0; i < cols; i++) {
            float v = fabsf(in_f16(x[i]));
            if (v < a->threshold && v > most) most = v;
        }
        float factor = quant_int8_factor(most);
        for (int64_t i = 0; i < a->pitch; i++)
            code[i] = i < cols && !a->flags[i] ? (int8_t)rintf(in_f16(x[i]) * factor) : 0;
        a->absmax[t] = most;
    }
}

static void multiply_rows(void *ud, int64_t row0, int64_t row1)
{
    const Mixed *a = ud;
    int64_t cols = a->q->cols;
    for (int64_t r = row0; r < row1; r++) {
        const int8_t *w = a->w + r * cols;
        for (int64_t t = 0; t < a->n; t++) {
            const int8_t *code = a->codes + t * a->pitch;
            int32_t sum = 0;
            for (int64_t i = 0; i < cols; i++)
                sum += code[i] * w[i];
            double y = (double)((float)sum * (a->absmax[t] * a->scb[r]) * QUANT_INV127_SQUARED);
            for (int32_t k = 1; k <= a->list[0]; k++) {
                int32_t i = a->list[k];
                float value = (float)w[i] * a->scb[r] * QUANT_INV127;
                y += (double)a->x[t * a->ldx + i] * (double)value;
            }
            if (a->add) y += (double)a->add[t * a->ld_add + r];
            a->y[t * a->ldy + r] = (float)y;
        }
    }
}

void cpu_quant_mixed(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *packed,
                     const QuantPart *q, float threshold)
{
    int64_t n = tensor_rows(x);
    ASSERT(q->type == QUANT_INT8 && q->cols < QUANT_MIXED_COLS, "quant_mixed of %s, %lld columns",
           quant_type_name(q->type), (long long)q->cols);
    check_matrix(y, n, q->rows, "y");
    check_matrix(x, n, q->cols, "x");
    if (add) check_matrix(add, n, q->rows, "add");
    MixedScratch at = quant_mixed_scratch(n, q->cols);
    char *scratch = workspace_take(d, at.bytes);
    const uint8_t *bytes = tensor_data(packed);
    Mixed a = {.q = q,
               .x = data_f32(x),
               .add = add ? data_f32(add) : NULL,
               .y = data_f32(y),
               .n = n,
               .ldx = x->ld,
               .ldy = y->ld,
               .ld_add = add ? add->ld : 0,
               .threshold = threshold,
               .w = (const int8_t *)(bytes + q->codes),
               .scb = (const float *)(const void *)(bytes + q->scales),
               .codes = (int8_t *)(scratch + at.codes),
               .absmax = (float *)(void *)(scratch + at.absmax),
               .flags = (uint8_t *)(scratch + at.flags),
               .list = (int32_t *)(void *)(scratch + at.list),
               .pitch = at.pitch};
    find_outliers(&a);
    rows_run(d, n, 8 * q->cols, encode_rows, &a);
    rows_run(d, q->rows, 2 * n * q->cols, multiply_rows, &a);
    workspace_give(d);
}

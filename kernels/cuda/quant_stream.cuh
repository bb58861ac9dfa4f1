/* The codes and scales of a matrix of nf4 or fp4 on their way to a warp that multiplies them (quant_matvec_mma.cu).
 *
 * A block takes a group of 16 rows at a time, a warp of it an eighth of their columns, in units of 128 columns, two of which
 * are a pair and four a quad.  Whole cache lines go from memory into a ring of the warp's own, a quad ahead.  Such copies are
 * waited for in their order; loads into registers share few counters, and waiting for one is waiting for all. */
#pragma once

#include "kernels/cuda/quant.cuh"

enum { WARPS = 8, THREADS = WARPS * WARP, ROWS = 16, UNIT = 128, QUAD = 4 };
enum { LINE = UNIT /* bytes of a row's pair of units */, PAIR_BYTES = ROWS * LINE };

__device__ inline uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ inline uint4 shared_load(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

__device__ inline uint2 shared_load_8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}

__device__ inline void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void copies_end(void) /* of one group of them */
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LATER>
__device__ inline void copies_wait(void) /* all but the latest groups are there */
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

/* ---- codes and scales on their way -------------------------------------------------------------- */

/* The quads of units in the order in which a warp multiplies them: the one that is sent for next. */
struct Reader {
    int group, left;       /* group >= n_groups: no more; units of the group from the quad on */
    int end;               /* the part's last group and one */
    const uint8_t *code;   /* what the lane copies of the quad's first four rows */
    uint32_t rows;         /* bytes to the next four */
    uint32_t block[2];     /* of 64: in the lane's two rows the first of the quad's c-th unit */
    uint32_t stride;       /* bytes of codes from a group's last quad to the next one's first */
    const uint8_t *scales; /* the part's */
    const float *nested;   /* NULL: scales are the absmax */
};

/* What a warp has of each group of rows: units [unit0, unit0 + units) of their columns, an even number. */
struct Share {
    int n_groups, unit0, units;
};

__device__ inline Share share_of(const QuantViews &q)
{
    const int warp = threadIdx.x / WARP, pairs = (int)(q.part[0].cols / (2 * UNIT));
    Share s;
    s.n_groups = q.first[q.n] / ROWS;
    s.unit0 = pairs * warp / WARPS * 2;
    s.units = pairs * (warp + 1) / WARPS * 2 - s.unit0;
    return s;
}

__device__ inline void seek(Reader &r, const Share &s, const QuantViews &q, int group)
{
    r.group = group;
    r.left = group < s.n_groups ? s.units : 0;
    if (r.left == 0) return;
    const int lane = threadIdx.x % WARP, k = part_of(q, group * ROWS);
    const QuantView &v = q.part[k];
    const uint32_t row = group * ROWS - q.first[k], bytes = (uint32_t)v.cols / 2;
    r.end = q.first[k + 1] / ROWS;
    r.code = v.codes + (row + lane / 8) * bytes + s.unit0 * (UNIT / 2) + lane % 8 * 16;
    r.rows = 4 * bytes;
    r.stride = gridDim.x * ROWS * bytes - (s.units - 1) / QUAD * (QUAD * UNIT / 2);
    r.scales = (const uint8_t *)v.scales;
    r.nested = v.is_nested ? v.nested : NULL;
#pragma unroll
    for (int h = 0; h < 2; h++)
        r.block[h] = (row + lane / 4 + 8 * h) * (bytes / 32) + 2 * s.unit0 + lane % 4 * 2;
}

__device__ inline void advance(Reader &r, const Share &s, const QuantViews &q)
{
    uint32_t by = QUAD * UNIT / 2;
    r.left -= QUAD;
    if (r.left <= 0) {
        r.group += gridDim.x;
        if (r.group >= r.end) {
            seek(r, s, q, r.group);
            return;
        }
        by = r.stride;
        r.left = s.units;
    }
    r.code += by;
    r.block[0] += by / 32;
    r.block[1] += by / 32;
}

/* Sends the i-th pair of units of the quad to its slot, four rows a copy; a group of copies, if only an empty one.  Odd rows
 * have their second unit first, so that reading two rows at a time meets all banks. */
__device__ inline void fetch_pair(const Reader &r, uint32_t ring, int i)
{
    if (2 * i < r.left) {
        const int lane = threadIdx.x % WARP;
        const uint32_t to =
            ring + i * PAIR_BYTES + lane / 8 * LINE + (lane % 8 ^ lane / 8 % 2 * 4) * 16;
#pragma unroll
        for (int j = 0; j < ROWS / 4; j++)
            copy_16(to + j * 4 * LINE, r.code + i * LINE + j * r.rows);
    }
    copies_end();
}

/* Of the c-th unit of a quad, both stretches, in the lane's two rows: nested, their codes and the absmax of both, which share a
 * nested block since their number is even; else their own absmax. */
struct RawScales {
    uint2 row[2];
};

__device__ inline void fetch_scales(RawScales &raw, const Reader &r)
{
    if ((int)threadIdx.x % 4 >= r.left) return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (r.nested) {
            raw.row[h].x = *(const uint16_t *)(r.scales + r.block[h]);
            raw.row[h].y = __float_as_uint(r.nested[r.block[h] / QUANT_NESTED_BLOCK]);
        } else {
            raw.row[h] = *(const uint2 *)((const float *)r.scales + r.block[h]);
        }
    }
}

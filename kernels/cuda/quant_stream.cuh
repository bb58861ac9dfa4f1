/* The codes and scales of a matrix of nf4 or fp4 on their way to a warp that multiplies them (quant_matvec_mma.cu).
 *
 * A block takes a group of 16 rows at a time, a warp of it an eighth of their columns, in units of 128 columns, two of which
 * are a pair and four a quad.  Whole cache lines go from memory into a ring of the warp's own, a quad ahead, and with them what
 * else the quad needs: what is asked for behind codes comes behind them, so that a load into a register would be waited for.
 * Copies are waited for in their order. */
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

__device__ inline void shared_store(uint32_t at, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

__device__ inline uint2 shared_load_8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}

__device__ inline uint32_t shared_load_4(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
__device__ inline uint32_t shared_load_2(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

__device__ inline void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void copy_4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
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

/* A warp's places in shared memory: of two pairs' codes, of a quad's scales and of its x. */
enum { SCALES_BYTES = ROWS * 8 * 4, X_BYTES = QUAD * UNIT * sizeof(bf16) };
enum { RING_BYTES = 2 * PAIR_BYTES + SCALES_BYTES + X_BYTES };

/* Where a lane writes and reads there.  Kept in registers: the compiler would work them out anew each time. */
struct Places {
    uint32_t code_to, code_from, scale_to, scale_from, x_from;
};
__device__ inline uint32_t kept(uint32_t v)
{
    asm volatile("" : "+r"(v));
    return v;
}

/* Columns of x are in chunks of eight, 64 of a quad, swapped so that lanes that read the i-th of their four chunks meet all
 * banks. */
__device__ inline int x_place(int chunk)
{
    return chunk ^ ((chunk / 16 ^ chunk / 8 % 2) & 3);
}

/* The ring's first byte is in a multiple of 128.  Odd rows have their second unit first, so that reading two rows at a time
 * meets all banks.  `halves`: a lane reads two times eight bytes of a row, not sixteen. */
__device__ inline Places places_of(uint32_t ring, bool halves)
{
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4, turn = g % 2 * 4;
    const uint32_t scales = ring + 2 * PAIR_BYTES, x = scales + SCALES_BYTES;
    Places p;
    p.code_to = kept(ring + lane / 8 * LINE + (lane % 8 ^ lane / 8 % 2 * 4) * 16);
    p.code_from =
        kept(ring + g * LINE + (halves ? (c / 2 ^ turn) * 16 + c % 2 * 8 : (c ^ turn) * 16));
    p.scale_to = kept(scales + lane * 4);
    p.scale_from = kept(scales + g * 8);
    p.x_from = kept(x + x_place(g / 2 * 16 + 4 * c) * 16);
    return p;
}

/* The quads of units in the order in which a warp multiplies them: the one that is sent for next. */
struct Reader {
    int group, left;     /* group >= n_groups: no more; units of the group from the quad on */
    int end;             /* the part's last group and one */
    const uint8_t *code; /* what the lane copies of the quad's first four rows */
    uint32_t rows;       /* bytes to the next four */
    uint32_t block; /* of 64: in row lane / 2 the first of the quad's (lane % 2)-th pair of units */
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
    r.block = (row + lane / 2) * (bytes / 32) + 2 * s.unit0 + lane % 2 * 4;
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
    r.block += by / 32;
}

/* Sends the i-th pair of units of the quad to its slot, four rows a copy. */
__device__ inline void fetch_pair(const Reader &r, const Places &p, int i)
{
    if (2 * i >= r.left) return;
#pragma unroll
    for (int j = 0; j < ROWS / 4; j++)
        copy_16(p.code_to + i * PAIR_BYTES + j * 4 * LINE, r.code + i * LINE + j * r.rows);
}

/* Sends the scales of the quad: of each row eight, nested codes of a byte and behind them an absmax for each four (which share
 * a nested block, since their first is a multiple of four), else floats. */
enum { NESTED_AT = ROWS * 8 };
template <bool NESTED> __device__ inline void fetch_scales(const Reader &r, const Places &p)
{
    const int lane = threadIdx.x % WARP;
    if (lane % 2 * 2 >= r.left) return;
    if (NESTED) {
        copy_4(p.scale_to, r.scales + r.block);
        copy_4(p.scale_to + NESTED_AT, r.nested + r.block / QUANT_NESTED_BLOCK);
    } else {
        copy_16(p.scale_to + lane * 12, (const float *)r.scales + r.block);
    }
}

/* Of unit c = lane % 4 of a quad of which `left` are there, both stretches, in the lane's two rows; of others something
 * finite.  All is read before the first is used. */
template <bool NESTED>
__device__ inline void read_scales(float (&scale)[2][2], const Places &p, int left,
                                   const QuantTables &t)
{
    const int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    if (NESTED) {
        uint32_t code[2];
        float absmax[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            code[h] = shared_load_2(p.scale_from + h * 8 * 8 + c * 2);
            absmax[h] =
                __uint_as_float(shared_load_4(p.scale_from + NESTED_AT + h * 8 * 8 + c / 2 * 4));
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            absmax[h] = c < left ? absmax[h] : 0;
#pragma unroll
            for (int j = 0; j < 2; j++)
                scale[h][j] = scale_value(t, true, {code[h] >> 8 * j & 255, absmax[h]});
        }
    } else {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint2 both = shared_load_8(p.scale_from + g * 24 + h * 8 * 32 + c * 8);
            scale[h][0] = c < left ? __uint_as_float(both.x) : 0;
            scale[h][1] = c < left ? __uint_as_float(both.y) : 0;
        }
    }
}

/* Chunks of a quad's x that a lane sends, every 32nd. */
enum { X_CHUNKS = QUAD * UNIT / 8 / WARP };

/* Where the i-th of them is. */
__device__ inline int x_chunk(int i)
{
    return threadIdx.x % WARP + i * WARP;
}
__device__ inline uint32_t x_at(uint32_t ring, int i)
{
    return ring + 2 * PAIR_BYTES + SCALES_BYTES + x_place(x_chunk(i)) * 16;
}

/* Sends one row's x of the quad. */
__device__ inline void fetch_x(const Reader &r, const Share &s, const bf16 *x, uint32_t ring)
{
    const bf16 *from = x + (s.unit0 + s.units - r.left) * UNIT;
#pragma unroll
    for (int i = 0; i < X_CHUNKS; i++)
        if (x_chunk(i) / 16 < r.left) copy_16(x_at(ring, i), from + x_chunk(i) * 8);
}

/* Tensors of quantised checkpoints.  Sources: bitsandbytes functional.py (QuantState), nn/modules.py; GPTQModel
 * nn_modules/qlinear, utils/model.py; AutoAWQ's gemm packing. */
#include "model/quant_file.h"

#include "autograd/ops.h"
#include "base/parallel.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

static const char *const suffixes[] = {
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4",
    ".SCB",
    ".weight_format",
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
};

bool quant_file_owns(const QuantFile *f, const char *name, size_t *module_len)
{
    for (size_t i = 0; f->method && i < sizeof suffixes / sizeof *suffixes; i++)
        if (str_ends(name, suffixes[i])) {
            *module_len = strlen(name) - strlen(suffixes[i]);
            return true;
        }
    return false;
}

bool quant_file_has(const QuantFile *f, const SafeTensors *from, const char *module)
{
    char *name = str_format("%s.weight", module);
    const SafeTensor *t = safetensors_find(from, name);
    free(name);
    bool plain = t && (t->dtype == ST_F32 || t->dtype == ST_BF16 || t->dtype == ST_F16);
    for (size_t i = 0; plain && i < sizeof suffixes / sizeof *suffixes; i++) {
        name = str_format("%s%s", module, suffixes[i]);
        plain = !safetensors_find(from, name);
        free(name);
    }
    return f->method && !plain;
}

typedef struct Load {
    const QuantFile *f;
    const QuantPart *q;
    const char *module, *dir;
    const SafeTensors *from;
    uint8_t *packed; /* of the part, offsets relative to its codes */
    Pool *pool;
    Log *log;
    Err *err;
} Load;

static uint8_t *piece(const Load *l, size_t offset)
{
    return l->packed + (offset - l->q->codes);
}

static const SafeTensor *look(const Load *l, const char *suffix)
{
    char *name = str_format("%s%s", l->module, suffix);
    const SafeTensor *t = safetensors_find(l->from, name);
    free(name);
    return t;
}

/* A tensor of that many bytes; dtype ST_N: any, for bytes that were cast (quant_storage). */
static Status take(const Load *l, const char *suffix, SafeDType dtype, size_t bytes,
                   const SafeTensor **out)
{
    const SafeTensor *t = look(l, suffix);
    if (!t)
        return err_set(l->err, E_INPUT,
                       "%s: tensor %s%s is missing; config.json says the model is "
                       "quantised by %s",
                       l->dir, l->module, suffix, quant_method_name(l->f->method));
    if (dtype != ST_N && t->dtype != dtype)
        return err_set(l->err, E_INPUT, "%s: %s: has dtype %s, must be %s", t->file, t->name,
                       safe_dtype_name(t->dtype), safe_dtype_name(dtype));
    if (t->bytes != bytes)
        return err_set(l->err, E_INPUT, "%s: %s: has %zu bytes, the model needs %zu", t->file,
                       t->name, t->bytes, bytes);
    *out = t;
    return OK;
}

/* The same of a matrix. */
static Status take_matrix(const Load *l, const char *suffix, SafeDType dtype, int64_t rows,
                          int64_t cols, const SafeTensor **out)
{
    TRY(take(l, suffix, dtype, (size_t)(rows * cols * safe_dtype_bits(dtype) / 8), out));
    const SafeTensor *t = *out;
    if (t->n_dims != 2 || t->shape[0] != rows || t->shape[1] != cols)
        return err_set(l->err, E_INPUT,
                       "%s: %s: is not of shape [%lld, %lld], which the model needs", t->file,
                       t->name, (long long)rows, (long long)cols);
    return OK;
}

static Status copy_piece(const Load *l, const char *suffix, SafeDType dtype, size_t offset,
                         size_t bytes)
{
    const SafeTensor *t;
    TRY(take(l, suffix, dtype, bytes, &t));
    memcpy(piece(l, offset), t->data, bytes);
    return OK;
}

/* ---- bitsandbytes ------------------------------------------------------------------------------- */

static Status check_state(const Load *l, const SafeTensor *t, const Json *state)
{
    const QuantPart *q = l->q;
    int64_t block = 0, nested = QUANT_NESTED_BLOCK, rows = 0, cols = 0;
    const Json *shape = json_get(state, "shape");
    json_int(json_get(state, "blocksize"), &block);
    json_int(json_get(state, "nested_blocksize"), &nested);
    json_int(json_at(shape, 0), &rows);
    json_int(json_at(shape, 1), &cols);
    const Json *type = json_get(state, "quant_type");
    const char *name = NULL;
    if (type && (!json_str(type, &name, NULL) || !str_eq(name, quant_type_name(q->type))))
        return err_set(l->err, E_INPUT, "%s: %s: quant_type: must be %s, is %s", t->file, t->name,
                       quant_type_name(q->type), name ? name : json_kind_name(type));
    if (rows != q->rows || cols != q->cols)
        return err_set(l->err, E_INPUT,
                       "%s: %s: says shape [%lld, %lld], the model needs [%lld, %lld]", t->file,
                       t->name, (long long)rows, (long long)cols, (long long)q->rows,
                       (long long)q->cols);
    if (block != q->block || nested != QUANT_NESTED_BLOCK)
        return err_set(l->err, E_INPUT,
                       "%s: %s: has blocks of %lld (nested %lld), others %lld; only files of one "
                       "block size (nested %d) are supported",
                       t->file, t->name, (long long)block, (long long)nested, (long long)q->block,
                       (int)QUANT_NESTED_BLOCK);
    if (!!json_get(state, "nested_offset") != q->nested)
        return err_set(l->err, E_INPUT,
                       "%s: %s: does not agree with config.json on double quantisation", t->file,
                       t->name);
    double offset = 0;
    if (q->nested && !json_number(json_get(state, "nested_offset"), &offset))
        return err_set(l->err, E_INPUT, "%s: %s: nested_offset is no number", t->file, t->name);
    float value = (float)offset;
    if (q->nested) memcpy(piece(l, q->tables) + (16 + 256) * sizeof value, &value, sizeof value);
    return OK;
}

static Status parse_state(Json **out, const SafeTensor *t, Err *err)
{
    char *name = str_format("%s: %s", t->file, t->name);
    Status s = json_parse(out, (const char *)t->data, t->bytes, name, 1, 0, err);
    free(name);
    return s;
}

static Status load_state(const Load *l)
{
    const SafeTensor *t =
        look(l, l->q->type == QUANT_NF4 ? ".weight.quant_state.bitsandbytes__nf4"
                                        : ".weight.quant_state.bitsandbytes__fp4");
    if (!t)
        return err_set(l->err, E_INPUT,
                       "%s: tensor %s.weight.quant_state.bitsandbytes__%s is missing", l->dir,
                       l->module, quant_type_name(l->q->type));
    Json *state = NULL;
    TRY(parse_state(&state, t, l->err));
    Status s = check_state(l, t, state);
    json_free(state);
    return s;
}

static Status read_block(QuantFile *f, const SafeTensor *t, Err *err)
{
    Json *state = NULL;
    TRY(parse_state(&state, t, err));
    int64_t block = 0;
    json_int(json_get(state, "blocksize"), &block);
    json_free(state);
    if (!quant_block_is_known(block))
        return err_set(err, E_INPUT,
                       "%s: %s: blocks of %lld are not supported; powers of two from %d to %d are",
                       t->file, t->name, (long long)block, (int)QUANT_LEAST_BLOCK,
                       (int)QUANT_MOST_BLOCK);
    f->block = block;
    return OK;
}

Status quant_file_look(QuantFile *f, const char *dir, Err *err)
{
    SafeTensors *from;
    Err none = {0};
    if (f->method != QUANT_METHOD_BNB || !quant_is_4bit(f->type)) return OK;
    if (safetensors_open(&from, dir, &none) != OK) return OK; /* loading says what is wrong */
    Status s = OK;
    for (int i = 0; i < safetensors_count(from); i++) {
        const SafeTensor *t = safetensors_at(from, i);
        if (!strstr(t->name, ".weight.quant_state.bitsandbytes__")) continue;
        s = read_block(f, t, err);
        break;
    }
    safetensors_close(from);
    return s;
}

static Status load_4bit(const Load *l)
{
    const QuantPart *q = l->q;
    TRY(copy_piece(l, ".weight", ST_N, q->codes, quant_codes_bytes(q)));
    TRY(copy_piece(l, ".weight.absmax", q->nested ? ST_U8 : ST_F32, q->scales,
                   quant_scales_bytes(q)));
    TRY(copy_piece(l, ".weight.quant_map", ST_F32, q->tables, 16 * sizeof(float)));
    if (q->nested) {
        TRY(copy_piece(l, ".weight.nested_absmax", ST_F32, q->nested_scales,
                       quant_nested_bytes(q)));
        TRY(copy_piece(l, ".weight.nested_quant_map", ST_F32, q->tables + 16 * sizeof(float),
                       256 * sizeof(float)));
    }
    return load_state(l);
}

static Status load_int8(const Load *l)
{
    const SafeTensor *format = look(l, ".weight_format");
    if (format && (format->bytes != 1 || format->data[0] != 0))
        return err_set(l->err, E_INPUT, "%s: %s: only the row format (0) is supported",
                       format->file, format->name);
    const SafeTensor *codes;
    TRY(take_matrix(l, ".weight", ST_I8, l->q->rows, l->q->cols, &codes));
    memcpy(piece(l, l->q->codes), codes->data, codes->bytes);
    return copy_piece(l, ".SCB", ST_F32, l->q->scales, quant_scales_bytes(l->q));
}

/* ---- GPTQ and AWQ ------------------------------------------------------------------------------- */

static uint32_t word_at(const uint8_t *words, int64_t i)
{
    uint32_t w;
    memcpy(&w, words + 4 * i, sizeof w);
    return w;
}

/* The j-th value of `bits` in a stream of words, least significant bit first; words lie `stride` apart. */
static uint32_t stream_value(const uint8_t *words, int64_t first, int64_t stride, int bits,
                             int64_t j)
{
    int64_t at = j * bits, word = at / 32, shift = at % 32;
    uint64_t pair = word_at(words, first + word * stride);
    if (shift + bits > 32) pair |= (uint64_t)word_at(words, first + (word + 1) * stride) << 32;
    return (uint32_t)(pair >> shift) & ((1u << bits) - 1);
}

/* Column 8 c + j of AWQ's word c lies in this nibble. */
static const int awq_nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static uint32_t awq_value(const uint8_t *words, int64_t row, int64_t per_row, int64_t col)
{
    return word_at(words, row * per_row + col / 8) >> (4 * awq_nibble[col % 8]) & 15;
}

typedef struct Unpack {
    const Load *l;
    const uint8_t *codes;
    int64_t in, out;
    int bits;
    bool awq;
} Unpack;

/* One row of the matrix: a column of the file's. */
static void unpack_row(void *ud, int64_t o)
{
    const Unpack *u = ud;
    const QuantPart *q = u->l->q;
    int64_t row_bytes = q->type == QUANT_GROUP4 ? (u->in + 1) / 2 : u->in;
    uint8_t *to = piece(u->l, q->codes) + o * row_bytes;
    for (int64_t i = 0; i < u->in; i++) {
        uint32_t code = u->awq ? awq_value(u->codes, i, u->out / 8, o)
                               : stream_value(u->codes, o, u->out, u->bits, i);
        if (q->type == QUANT_GROUP8)
            to[i] = (uint8_t)code;
        else
            to[i / 2] = (uint8_t)(i % 2 ? to[i / 2] | code << 4 : code);
    }
}

/* v1 stores a zero less one.  The loaders in use undo it by adding 1 to every field of a word at once, carries and all, which
 * shows only for a field of all ones (asymmetric models that came from v2). */
static uint32_t zero_of(const Load *l, const uint8_t *zeros, int64_t group, int64_t out, int64_t o,
                        bool *full)
{
    int bits = l->f->bits;
    int64_t per_row = out * bits / 32;
    if (l->f->method == QUANT_METHOD_AWQ) return awq_value(zeros, group, per_row, o);
    uint32_t most = (1u << bits) - 1, stored = stream_value(zeros, group * per_row, 1, bits, o);
    if (!l->f->less_one) return stored;
    *full |= stored == most;
    if (bits == 3) return (stored + 1) & most;
    static const uint32_t ones[9] = {[2] = 0x55555555u, [4] = 0x11111111u, [8] = 0x01010101u};
    int64_t per_word = 32 / bits;
    uint32_t word = word_at(zeros, group * per_row + o / per_word) + ones[bits];
    return word >> (o % per_word * bits) & most;
}

static void load_scales(const Load *l, const uint8_t *scales, const uint8_t *zeros, int64_t groups)
{
    const QuantPart *q = l->q;
    int64_t n = quant_n_scales(q);
    bool full = false;
    for (int64_t o = 0; o < q->rows; o++)
        for (int64_t g = 0; g < groups; g++) {
            memcpy(piece(l, q->scales) + 2 * (o * n + g), scales + 2 * (g * q->rows + o), 2);
            piece(l, q->zeros)[o * n + g] = (uint8_t)zero_of(l, zeros, g, q->rows, o, &full);
        }
    if (full && !l->f->symmetric)
        log_warn(
            l->log,
            "%s: %s.qzeros: an asymmetric model in GPTQ's first format holds a zero of all ones; "
            "adding one carries into its neighbour, as other loaders do; a gptq_v2 file has no "
            "such doubt",
            l->dir, l->module);
}

static Status load_order(const Load *l)
{
    const QuantPart *q = l->q;
    if (!q->ordered && !look(l, ".g_idx")) return OK;
    const SafeTensor *t;
    TRY(take(l, ".g_idx", ST_I32, (size_t)q->cols * 4, &t));
    int64_t n = quant_n_scales(q);
    for (int64_t i = 0; i < q->cols; i++) {
        uint32_t group = word_at(t->data, i);
        if (group >= n)
            return err_set(l->err, E_INPUT, "%s: %s: column %lld has group %u of %lld", t->file,
                           t->name, (long long)i, group, (long long)n);
        if (!q->ordered && group != (uint32_t)(i / q->block))
            return err_set(l->err, E_INPUT,
                           "%s: %s: the columns are permuted, but config.json's "
                           "desc_act is false",
                           t->file, t->name);
    }
    if (q->ordered) memcpy(piece(l, q->groups), t->data, t->bytes);
    return OK;
}

static Status load_groups(const Load *l)
{
    const QuantPart *q = l->q;
    bool awq = l->f->method == QUANT_METHOD_AWQ;
    int64_t in = q->cols, out = q->rows, groups = quant_n_scales(q), bits = l->f->bits;
    if ((awq ? out * bits : in * bits) % 32 != 0 || out * bits % 32 != 0)
        return err_set(l->err, E_INPUT, "%s: %s: %lld x %lld does not fill words of 32 bits",
                       l->dir, l->module, (long long)out, (long long)in);
    const SafeTensor *codes, *zeros, *scales;
    TRY(take_matrix(l, ".qweight", ST_I32, awq ? in : in * bits / 32, awq ? out * bits / 32 : out,
                    &codes));
    TRY(take_matrix(l, ".qzeros", ST_I32, groups, out * bits / 32, &zeros));
    TRY(take_matrix(l, ".scales", ST_F16, groups, out, &scales));
    TRY(load_order(l));
    Unpack u = {l, codes->data, in, out, (int)bits, awq};
    Pool *own = l->pool ? NULL : pool_new(0); /* a GPU's device has none */
    pool_run(own ? own : l->pool, out, unpack_row, &u);
    pool_free(own);
    load_scales(l, scales->data, zeros->data, groups);
    return OK;
}

/* ------------------------------------------------------------------------------------------------- */

static size_t part_bytes(const QuantPart *q)
{
    QuantPart copy = *q;
    size_t bytes = 0;
    quant_place(&copy, &bytes);
    return bytes;
}

Status quant_file_load(const QuantFile *f, Device *d, const Quant *quant, int part,
                       const char *module, const SafeTensors *from, const char *dir, Log *log,
                       Err *err)
{
    const QuantPart *q = &quant->parts[part];
    int64_t bytes = (int64_t)part_bytes(q);
    Load l = {.f = f,
              .q = q,
              .module = module,
              .dir = dir,
              .from = from,
              .packed = xcalloc((size_t)bytes, 1),
              .pool = d->pool,
              .log = log,
              .err = err};
    Status s = f->method != QUANT_METHOD_BNB ? load_groups(&l)
               : f->type == QUANT_INT8       ? load_int8(&l)
                                             : load_4bit(&l);
    if (s == OK) {
        Tensor view = tensor_shape(DT_U8, 1, &bytes);
        view.storage = quant->packed.storage;
        view.offset = quant->packed.offset + q->codes;
        tensor_write(d, &view, l.packed);
    }
    free(l.packed);
    return s;
}

Status quant_file_decode(float **out, const QuantFile *f, Device *d, const QuantPart *part,
                         const char *module, const SafeTensors *from, const char *dir, Log *log,
                         Err *err)
{
    Quant q = {.parts = {*part}, .n_parts = 1};
    size_t used = 0;
    quant_place(&q.parts[0], &used);
    int64_t bytes = (int64_t)used, shape[2] = {part->rows, part->cols};
    q.packed = tensor_alloc(d, DT_U8, 1, &bytes, MEM_WORKSPACE);
    Status s = quant_file_load(f, d, &q, 0, module, from, dir, log, err);
    if (s == OK) {
        Tensor values = tensor_alloc(d, d->compute, 2, shape, MEM_WORKSPACE);
        d->k->dequantize(d, &values, &q.packed, q.parts, 1);
        *out = xmalloc((size_t)quant_numel(part) * sizeof **out);
        tensor_read_f32(d, &values, *out);
        tensor_clear(&values);
    }
    tensor_clear(&q.packed);
    return s;
}

/* bitsandbytes' keys beside each weight: formats of QuantState.as_dict(packed=True) and Int8Params. */
#include "model/quant_write.h"

#include "base/fs.h"
#include "base/str.h"
#include "model/folder.h"
#include "model/hf_files.h"
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATE_BYTES = 256, MAX_SHARD_GIB = 5 };

typedef enum PieceKind {
    WEIGHT,
    SCALES,
    TABLE,
    NESTED,
    NESTED_TABLE,
    STATE,
    FORMAT,
    PIECES
} PieceKind;

/* One tensor of the output that is made here. */
typedef struct Piece {
    char *name;
    Param *p;
    int slice;
    PieceKind kind;
} Piece;

typedef struct Writer {
    Device *dev;
    Llama m;
    SafeTensors *from;
    QuantOpts opts;
    SafeTensor *tensors;
    int n, cap;
    Piece *pieces; /* of tensors without data */
    int n_pieces;
    /* the matrix that was encoded last */
    const Param *p;
    int slice;
    QuantPart part;
    uint8_t *packed;
    double *square, *lost; /* by class */
    QuantReport *report;
} Writer;

/* ---- one matrix --------------------------------------------------------------------------------- */

static const char *class_name(const char *weight)
{
    size_t n = strlen(weight) - strlen(".weight"), from = n;
    while (from > 0 && weight[from - 1] != '.')
        from--;
    return weight + from;
}

static Status add_error(Writer *w, const SafeTensor *t, const float *x, const float *y, Err *err)
{
    QuantReport *r = w->report;
    int64_t n = quant_numel(&w->part);
    const char *kind = class_name(t->name);
    int len = (int)strcspn(kind, "."), k = 0;
    while (k < r->n_classes && strncmp(r->classes[k].name, kind, (size_t)len) != 0)
        k++;
    ASSERT(k < QUANT_MAX_CLASSES, "more than %d kinds of matrices", QUANT_MAX_CLASSES);
    QuantClass *c = &r->classes[k];
    if (k == r->n_classes) {
        snprintf(c->name, sizeof c->name, "%.*s", len, kind);
        r->n_classes++;
    }
    double square = 0, lost = 0;
    for (int64_t i = 0; i < n; i++) {
        square += (double)x[i] * (double)x[i];
        lost += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    }
    if (!isfinite(square)) return quant_not_finite(t->file, t->name, err);
    w->square[k] += square;
    w->lost[k] += lost;
    c->error = w->square[k] > 0 ? sqrt(w->lost[k] / w->square[k]) : 0;
    c->bits =
        (c->bits * (double)c->numel + quant_bits(&w->part) * (double)n) / (double)(c->numel + n);
    c->numel += n;
    c->n++;
    r->bits =
        (r->bits * (double)r->numel + quant_bits(&w->part) * (double)n) / (double)(r->numel + n);
    r->numel += n;
    r->n_matrices++;
    return OK;
}

/* Pieces of one matrix come one behind the other, by dtype: so each is encoded at most twice. */
static Status encode(Writer *w, const Piece *x, Err *err)
{
    bool first = x->kind == WEIGHT;
    Status s = OK;
    if (w->p == x->p && w->slice == x->slice && !first) return OK;
    const SafeTensor *t = safetensors_find(w->from, x->p->slices[x->slice].name);
    w->p = x->p;
    w->slice = x->slice;
    w->part = x->p->t.quant->parts[x->slice];
    size_t bytes = 0;
    quant_place(&w->part, &bytes);
    int64_t n = (int64_t)bytes, shape[2] = {w->part.rows, w->part.cols};
    Tensor values = tensor_alloc(w->dev, DT_F32, 2, shape, MEM_WORKSPACE);
    Tensor packed = tensor_alloc(w->dev, DT_U8, 1, &n, MEM_WORKSPACE);
    float *host = weight_read_f32(t, w->dev->pool);
    tensor_zero(w->dev, &packed);
    tensor_write(w->dev, &values, host);
    w->dev->k->quantize(w->dev, &packed, &w->part, &values);
    free(w->packed);
    w->packed = xmalloc(bytes);
    tensor_read(w->dev, &packed, w->packed);
    if (first) {
        float *decoded = xmalloc((size_t)quant_numel(&w->part) * sizeof *decoded);
        w->dev->k->dequantize(w->dev, &values, &packed, &w->part, 1);
        tensor_read(w->dev, &values, decoded);
        s = add_error(w, t, host, decoded, err);
        free(decoded);
    }
    free(host);
    tensor_clear(&values);
    tensor_clear(&packed);
    return s;
}

static const char *torch_name(SafeDType t)
{
    return t == ST_BF16 ? "bfloat16" : t == ST_F16 ? "float16" : "float32";
}

/* JSON as Python writes it, with spaces behind it up to a fixed length: the header is written before it is known. */
static void state_text(const Writer *w, char out[STATE_BYTES + 1])
{
    const QuantPart *q = &w->part;
    const SafeTensor *t = safetensors_find(w->from, w->p->slices[w->slice].name);
    StrBuf b = {0};
    strbuf_printf(
        &b,
        "{\"quant_type\": \"%s\", \"blocksize\": %lld, \"dtype\": \"%s\", \"shape\": [%lld, %lld]",
        quant_type_name(q->type), (long long)q->block, torch_name(t->dtype), (long long)q->rows,
        (long long)q->cols);
    if (q->nested) {
        float offset;
        memcpy(&offset, w->packed + q->tables + (16 + 256) * sizeof offset, sizeof offset);
        strbuf_printf(
            &b,
            ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %.17g",
            (int)QUANT_NESTED_BLOCK, (double)offset);
    }
    strbuf_putc(&b, '}');
    ASSERT(b.len <= STATE_BYTES, "%zu bytes of quant_state", b.len);
    memset(out, ' ', STATE_BYTES);
    memcpy(out, b.data, b.len);
    strbuf_clear(&b);
}

static Status write_piece(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    Writer *w = ud;
    const Piece *x = NULL;
    for (int i = 0; i < w->n_pieces && !x; i++)
        if (str_eq(w->pieces[i].name, t->name)) x = &w->pieces[i];
    ASSERT(x, "%s is nobody's", t->name);
    TRY(encode(w, x, err));
    const QuantPart *q = &w->part;
    char state[STATE_BYTES + 1];
    static const uint8_t row_format = 0;
    const void *from[PIECES] = {[WEIGHT] = w->packed + q->codes,
                                [SCALES] = w->packed + q->scales,
                                [TABLE] = w->packed + q->tables,
                                [NESTED] = w->packed + q->nested_scales,
                                [NESTED_TABLE] = w->packed + q->tables + 16 * sizeof(float),
                                [STATE] = state,
                                [FORMAT] = &row_format};
    if (x->kind == STATE) state_text(w, state);
    file_out_write(f, from[x->kind], t->bytes);
    return OK;
}

/* ---- the list of tensors ------------------------------------------------------------------------ */

static SafeTensor *append(Writer *w)
{
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 256;
        w->tensors = xrealloc(w->tensors, (size_t)w->cap * sizeof *w->tensors);
        w->pieces = xrealloc(w->pieces, (size_t)w->cap * sizeof *w->pieces);
    }
    return &w->tensors[w->n++];
}

static void add_piece(Writer *w, Param *p, int slice, PieceKind kind, const char *suffix,
                      SafeDType dtype, int n_dims, int64_t rows, int64_t cols)
{
    const char *weight = p->slices[slice].name;
    int64_t *shape = xmalloc(2 * sizeof *shape);
    shape[0] = rows, shape[1] = cols;
    SafeTensor *t = append(w);
    char *name = str_format("%.*s%s", (int)(strlen(weight) - strlen(".weight")), weight, suffix);
    w->pieces[w->n_pieces++] = (Piece){name, p, slice, kind};
    int64_t numel = n_dims == 0 ? 1 : n_dims == 1 ? rows : rows * cols;
    *t = (SafeTensor){.name = name,
                      .dtype = dtype,
                      .n_dims = n_dims,
                      .shape = shape,
                      .bytes = (size_t)numel * (size_t)safe_dtype_bits(dtype) / 8};
}

static void add_matrix(Writer *w, Param *p, int slice)
{
    const QuantPart *q = &p->t.quant->parts[slice];
    int64_t scales = quant_n_scales(q);
    if (q->type == QUANT_INT8) {
        add_piece(w, p, slice, WEIGHT, ".weight", ST_I8, 2, q->rows, q->cols);
        add_piece(w, p, slice, SCALES, ".SCB", ST_F32, 1, q->rows, 0);
        add_piece(w, p, slice, FORMAT, ".weight_format", ST_U8, 0, 0, 0);
        return;
    }
    add_piece(w, p, slice, WEIGHT, ".weight", ST_U8, 2, (int64_t)quant_codes_bytes(q), 1);
    add_piece(w, p, slice, SCALES, ".weight.absmax", q->nested ? ST_U8 : ST_F32, 1, scales, 0);
    add_piece(w, p, slice, TABLE, ".weight.quant_map", ST_F32, 1, 16, 0);
    if (q->nested) {
        int64_t nested = (int64_t)(quant_nested_bytes(q) / sizeof(float));
        add_piece(w, p, slice, NESTED, ".weight.nested_absmax", ST_F32, 1, nested, 0);
        add_piece(w, p, slice, NESTED_TABLE, ".weight.nested_quant_map", ST_F32, 1, 256, 0);
    }
    add_piece(w, p, slice, STATE,
              q->type == QUANT_NF4 ? ".weight.quant_state.bitsandbytes__nf4"
                                   : ".weight.quant_state.bitsandbytes__fp4",
              ST_U8, 1, STATE_BYTES, 0);
}

static void list_tensors(Writer *w)
{
    for (int i = 0; i < safetensors_count(w->from); i++) {
        const SafeTensor *t = safetensors_at(w->from, i);
        int slice;
        Param *p = paramset_find(&w->m.params, t->name, &slice);
        if (p && p->t.quant)
            add_matrix(w, p, slice);
        else
            *append(w) = *t;
    }
}

/* ---- the folder --------------------------------------------------------------------------------- */

static Status edit_config(const char *dir, const QuantOpts *o, Err *err)
{
    bool eight = o->type == QUANT_INT8;
    char *text = str_format(
        "{\n    \"quant_method\": \"bitsandbytes\",\n    \"load_in_4bit\": %s,\n    "
        "\"load_in_8bit\": %s,\n"
        "    \"bnb_4bit_quant_type\": \"%s\",\n    \"bnb_4bit_use_double_quant\": %s,\n"
        "    \"bnb_4bit_compute_dtype\": \"bfloat16\",\n    \"bnb_4bit_quant_storage\": "
        "\"uint8\",\n"
        "    \"llm_int8_threshold\": 6.0,\n    \"llm_int8_skip_modules\": [\"lm_head\"],\n"
        "    \"llm_int8_has_fp16_weight\": false\n  }",
        eight ? "false" : "true", eight ? "true" : "false",
        eight ? "nf4" : quant_type_name(o->type), o->nested ? "true" : "false");
    Status s =
        folder_edit_config(dir, (const char *const[]){"quantization_config", text, NULL}, err);
    free(text);
    return s;
}

/* What a folder that was empty has got, after a failure: so the same command can be given again. */
static void take_back(const char *out, bool made)
{
    char **names;
    int n;
    Err ignored = {0};
    if (dir_list(&names, &n, out, &ignored) != OK) return;
    for (int i = 0; i < n; i++) {
        char *path = path_join(out, names[i]);
        (void)!dir_remove(path, &ignored);
        free(path);
    }
    dir_list_free(names, n);
    if (made) rmdir(out);
}

static Status write_files(Writer *w, const char *from, const char *out, Log *log, Err *err)
{
    TRY(safetensors_write_model(out, w->tensors, w->n, (uint64_t)MAX_SHARD_GIB << 30, write_piece,
                                w, err));
    TRY(folder_copy_rest(from, out, log, err));
    return edit_config(out, &w->opts, err);
}

static Status write_all(Writer *w, const char *from, const char *out, Log *log, Err *err)
{
    /* of what is copied, too: a reader of the new folder would be told too late */
    TRY(model_check_weights(&w->m, from, err));
    list_tensors(w);
    bool made = !path_exists(out);
    TRY(dir_make(out, err));
    Status s = write_files(w, from, out, log, err);
    if (s != OK) take_back(out, made);
    return s;
}

Status quant_write_folder(const char *from, const char *out, const QuantOpts *o, Device *d,
                          Log *log, QuantReport *report, Err *err)
{
    LlamaConfig cfg;
    TRY(dir_check_new(out, from, err));
    TRY(llama_config_load(&cfg, from, err));
    if (cfg.quant.method)
        return err_set(err, E_INPUT, "%s: is quantised already (%s)", from,
                       quant_method_name(cfg.quant.method));
    *report = (QuantReport){0};
    Writer w = {.dev = d, .opts = *o, .report = report};
    TRY(safetensors_open(&w.from, from, err));
    llama_init(&w.m, &cfg, d, 1);
    llama_quantize(&w.m, o);
    w.square = xcalloc(QUANT_MAX_CLASSES, sizeof *w.square);
    w.lost = xcalloc(QUANT_MAX_CLASSES, sizeof *w.lost);
    Status s = write_all(&w, from, out, log, err);
    for (int i = 0; i < w.n; i++)
        if (!w.tensors[i].data) free((void *)(uintptr_t)w.tensors[i].shape);
    for (int i = 0; i < w.n_pieces; i++)
        free(w.pieces[i].name);
    free(w.tensors), free(w.pieces), free(w.packed), free(w.square), free(w.lost);
    llama_clear(&w.m);
    safetensors_close(w.from);
    return s;
}

/* ---- the other way ------------------------------------------------------------------------------ */

/* What codes decode to is written in the dtype that the embedding, which is in none, has in the file. */
static void store_as_rest(Llama *m)
{
    for (int i = 0; i < m->params.n; i++) {
        Param *p = m->params.items[i];
        for (int k = 0; p->t.quant && k < p->n_slices; k++)
            p->slices[k].stored = m->embed.slices[0].stored;
    }
}

/* The files that say how a folder is quantised no longer do. */
static Status forget_quantised(const char *dir, Err *err)
{
    static const char *const names[] = {"quantize_config.json", "quant_config.json"};
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, names[i]);
        Status s = dir_remove(path, err);
        free(path);
        TRY(s);
    }
    return folder_edit_config(dir, (const char *const[]){"quantization_config", NULL, NULL}, err);
}

static Status write_plain(Llama *m, const char *from, const char *out, Log *log, Err *err)
{
    TRY(llama_quantize_as(m, from, err));
    llama_alloc(m);
    TRY(model_load_weights(m, from, log, err));
    TRY(dir_make(out, err));
    store_as_rest(m);
    TRY(model_save_weights(m, out, DT_N, (uint64_t)MAX_SHARD_GIB << 30, err));
    TRY(folder_copy_rest(from, out, log, err));
    return forget_quantised(out, err);
}

Status quant_write_plain(const char *from, const char *out, Device *d, Log *log, Err *err)
{
    LlamaConfig cfg;
    TRY(llama_config_load(&cfg, from, err));
    Llama m;
    llama_init(&m, &cfg, d, 1);
    Status s = write_plain(&m, from, out, log, err);
    llama_clear(&m);
    return s;
}

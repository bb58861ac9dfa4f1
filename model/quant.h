/* Quantised bases: which matrices of a model are kept in 4 or 8 bits, and what that cost.  Embedding, head, norms and biases
 * stay as they are. */
#pragma once

#include "model/quant_file.h"

struct Llama;

typedef struct QuantOpts {
    QuantType type; /* QUANT_NONE: nothing is quantised */
    bool nested;    /* nf4, fp4: double quantisation */
    int64_t block;  /* nf4, fp4: elements of a scale; 0: QUANT_BLOCK */
    int64_t group;  /* groups: columns of a scale; -1: all */
    bool ordered;   /* groups: by a number for each column */
} QuantOpts;

/* What a quantised checkpoint is kept as: as it is. */
QuantOpts quant_opts_of(const QuantFile *f);

/* The nearest to that which weights can be encoded as: of groups, which are only read, nf4 or int8 as `lorac quantize` writes
 * them. */
QuantOpts quant_opts_to_write(const QuantFile *f);

/* "nf4 in blocks of 64 with double quantisation", "int8": into buf. */
enum { QUANT_TEXT = 64 };
const char *quant_opts_text(char buf[QUANT_TEXT], const QuantOpts *o);

/* x (rows, cols), on the host, becomes what it is after quantising; a type that can be encoded.  d: an f32 device, in whose memory
 * the matrix is meanwhile, in f32 and as codes. */
void quant_round(Device *d, const QuantOpts *o, float *x, int64_t rows, int64_t cols);

/* One matrix of a checkpoint, not yet placed. */
QuantPart quant_part(const QuantOpts *o, int64_t rows, int64_t cols);

/* Makes every matrix of the blocks a quantised one, before any has a storage and before adapters are attached.  Values
 * written to them are encoded one checkpoint tensor at a time, so that the model never exists unquantised. */
void llama_quantize(struct Llama *m, const QuantOpts *o);

/* The same as a quantised folder (m->cfg.quant) has it, by its tensors: what people leave out of quantising (llm_int8_skip_modules,
 * modules_to_not_convert, dynamic) stays plain.  A fused matrix with a plain slice is plain as a whole: the others are decoded as
 * they are loaded, and their part of FusedLinear.quant has the type of their codes.  A folder whose weights cannot be read counts as
 * quantised throughout: loading says what is wrong.  E_INPUT: not one matrix is in codes. */
Status llama_quantize_as(struct Llama *m, const char *dir, Err *err) MUST_CHECK;

/* The first part of the first quantised matrix; NULL: none is. */
const QuantPart *llama_quant_part(const struct Llama *m);
/* The codes that a slice of a plain matrix is decoded from (llama_quantize_as); NULL: it is not. */
const QuantPart *llama_decoded_part(const struct Llama *m, const Param *p, int slice);
/* The first such slice's module; NULL: there is none. */
const char *llama_decoded_module(const struct Llama *m);

/* Products of an int8 base's quantised matrices treat columns of their input apart that hold a magnitude of `threshold` or more, and code the rest in
 * 8 bits, as LLM.int8 (kernels.h, quant_mixed): to evaluate what a model does there, never while training. */
void llama_set_outliers(struct Llama *m, float threshold);

/* One kind of matrix over all layers: "q_proj", ... */
typedef struct QuantClass {
    char name[24];
    int n;
    int64_t numel;
    double bits; /* stored, per weight */
    double
        error; /* root of the mean squared error relative to the root of the mean square; < 0: not known, the file was
                   * quantised */
} QuantClass;

enum { QUANT_MAX_CLASSES = 8 };

typedef struct QuantReport {
    QuantClass classes[QUANT_MAX_CLASSES]; /* in the order of a block */
    int n_classes;
    int64_t numel, n_matrices; /* quantised */
    double bits;               /* of all quantised weights, each */
    int64_t plain_numel;       /* base parameters that are not quantised */
    const char *not_finite;    /* the first tensor that held NaN or infinity; NULL: none */
} QuantReport;

/* How the matrices are kept, in words: "nf4 in blocks of 64 with double quantisation: 224 matrices of the blocks, 6979.32 M weights at 4.13
 * bits (3.35 GiB)"; nothing for a model that is not quantised.  By shapes alone: of a planned model, too. */
void quant_base_text(StrBuf *b, const struct Llama *m);
/* Waits for the device; all ranks together, with the same numbers.  n_classes 0: nothing is quantised.  Names are the
 * model's. */
void quant_report(QuantReport *out, const struct Llama *m);
/* The error for a tensor that was not finite when it was quantised: codes have no NaN, and would train on.  E_INPUT. */
Status quant_not_finite(const char *from, const char *tensor, Err *err);
/* The same as lines to the user; nothing for a model that is not quantised. */
void quant_report_log(const QuantReport *r, const struct Llama *m, Log *log);

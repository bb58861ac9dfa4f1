/* Data sets to token batches on the host.
 *
 * dataset_open reads, tokenises (in parallel, cached), splits and packs; it owns nothing of the model.
 * Which documents a step sees is a pure function of (settings, seed, epoch, step): `Loader` has no
 * state but the position that the caller passes in. */
#pragma once

#include "base/log.h"
#include "base/parallel.h"
#include "data/jsonl.h"
#include "data/tokenizer.h"

typedef enum DataFormat {
    DATA_ALPACA,     /* instruction, input, output */
    DATA_SAMSUM,     /* dialogue, summary */
    DATA_MESSAGES,   /* messages: [{role, content}] */
    DATA_SHAREGPT,   /* conversations: [{from, value}] */
    DATA_COMPLETION, /* prompt, completion */
    DATA_TEXT,       /* text */
    DATA_TOKENS,     /* input_ids, labels (-100: not trained; under their own token) */
} DataFormat;

typedef enum ChatTemplate {
    TEMPLATE_DEFAULT, /* the format's own prompt (alpaca, samsum); for chats: refused, name one */
    TEMPLATE_LLAMA2,
    TEMPLATE_LLAMA3,
    TEMPLATE_CHATML,
    TEMPLATE_PROMPT,  /* DataSource.prompt with {field}s, then the answer */
    TEMPLATE_RAW,     /* fields one after the other, nothing between */
    TEMPLATE_LLAMA31, /* as Llama 3, with the dated system block that 3.1 and 3.2 always write */
} ChatTemplate;

typedef enum TrainOn { TRAIN_ON_ANSWER, TRAIN_ON_ASSISTANT, TRAIN_ON_ALL } TrainOn;
typedef enum Packing { PACK_BEST_FIT, PACK_OFF, PACK_CONCAT } Packing;

/* A longer document is an error, or loses its end (EOS with it), or becomes several: each further piece
 * begins with BOS, or without BOS with the last token of the piece before it, so that no trained token is
 * lost; pieces that train on nothing are left out and their tokens counted as dropped. */
typedef enum Overlong { OVERLONG_ERROR, OVERLONG_TRUNCATE, OVERLONG_SPLIT } Overlong;

typedef struct FieldMap {
    char *from; /* the name that the format uses */
    char *to;   /* the name in the file */
} FieldMap;

/* One file, or a folder of .json, .jsonl, .json.gz and .jsonl.gz files (in the order of their names), and
 * how to read it. */
typedef struct DataSource {
    char *path;
    DataFormat format;
    ChatTemplate chat;
    char *prompt; /* TEMPLATE_PROMPT, else NULL */
    char *system; /* chats: a system message where a row has none, or NULL */
    double
        weight; /* how often an epoch takes each row: 2 twice, 0.5 in every second epoch, 1.25 once and
                    * in every fourth epoch once more; which rows is decided by seed and epoch.
                    * Validation takes each row once */
    FieldMap *fields;
    int n_fields;
    int line;      /* of this source in the config, for messages */
    int64_t limit; /* only the first rows; 0: all */
} DataSource;

typedef struct DataOpts {
    DataSource *train;
    int n_train;
    DataSource *eval; /* validation files, or none */
    int n_eval;
    /* Rows for validation are chosen by a hash of the row's number: the same for every tokenizer, file
     * form and training seed. */
    double eval_share;  /* of the training rows, 0: none */
    int64_t eval_count; /* rows, 0: none; at most one of the three */
    TrainOn train_on;
    Packing packing;
    Overlong overlong;
    int64_t
        max_length; /* tokens in a document, and in a packed row.  PACK_CONCAT cuts its rows out of one
                         * long text, so that no document is too long there */
    bool
        allow_untrained; /* rows without a trained token are counted and left out instead of refused */
    bool shuffle;
    char *cache_dir; /* NULL: no cache */
} DataOpts;

/* What was found, before the first step. */
typedef struct DataReport {
    int64_t rows, tokens, trained_tokens, longest; /* longest document, tokens */
    int64_t truncated, dropped_tokens,
        split;                     /* documents cut, tokens lost by it, documents split */
    int64_t untrained, duplicates; /* rows without trained token; equal rows beyond the first */
    RowPlace first_untrained;
    int64_t packed_rows;   /* rows of max_length in epoch 0; documents when packing is off */
    double fill;           /* tokens / (packed_rows * max_length) */
    int64_t max_documents; /* most documents in one packed row */
    bool from_cache;
    int64_t empty_answers; /* rows that train on EOS alone */
    int64_t
        spelled_tokens; /* rows whose text spells a special token ("</s>"): it stays plain text */
    RowPlace first_spelled;
    int64_t eval_duplicates;  /* training rows that equal a validation row */
    int64_t remainder_tokens; /* PACK_CONCAT: at the end of epoch 0, in no row */
} DataReport;

typedef struct Dataset Dataset; /* tokenised rows, immutable */

/* Builds the training set and, when opts ask for it, the validation set (*eval NULL otherwise).  Errors
 * name file and line (row) and go to `problems`, the first hundred, before E_INPUT is returned.  Trained
 * tokens are those after the shift: a document's first token is never a target.  t may be NULL when every
 * source is DATA_TOKENS. */
Status dataset_open(Dataset **train, Dataset **eval, const DataOpts *opts, const Tokenizer *t,
                    Pool *pool, Log *log, Problems *problems) MUST_CHECK;
/* One set from one group of sources (lorac eval, tokenize). */
Status dataset_open_sources(Dataset **out, const DataSource *sources, int n, const DataOpts *opts,
                            const Tokenizer *t, Pool *pool, Log *log,
                            Problems *problems) MUST_CHECK;
void dataset_free(Dataset *d);
const DataReport *dataset_report(const Dataset *d);

/* A tokenised document.  labels[i] stands under its own token (-100: not trained). */
typedef struct Document {
    const int32_t *ids, *labels;
    int64_t n;
    int64_t id;  /* sample id: unique in the set, the same in every epoch and split of the work */
    RowPlace at; /* of its row; the set owns the file's name */
} Document;
int64_t dataset_size(const Dataset *d); /* documents */
Document dataset_document(const Dataset *d, int64_t i);

/* Tokens for one forward pass: documents back to back. */
typedef struct HostBatch {
    int64_t n_tokens;   /* N, pads included */
    int32_t *ids;       /* (N) */
    int32_t *targets;   /* (N) the NEXT token of the same document where that is trained, else -1 */
    int32_t *positions; /* (N) within the document */
    int64_t *samples;   /* (N) sample id of the token's document */
    int n_docs;
    int32_t *cu_docs;  /* (n_docs + 1) first token of each document, then N */
    int64_t max_doc;   /* longest document */
    int64_t n_trained; /* targets >= 0 */
    int64_t n_real;    /* tokens that are no padding */
    void *memory;      /* the one allocation behind the arrays; grown by loader_micro */
    size_t memory_bytes;
} HostBatch;
void host_batch_clear(HostBatch *b);
/* n_docs documents of lens[i] random tokens, every position trained: for plans and benchmarks without data. */
void host_batch_random(HostBatch *b, int64_t n_docs, const int32_t *lens, int64_t vocab,
                       uint64_t seed);

/* Epoch order, packing and batches over a data set.  A *row* is a packed row (PACK_BEST_FIT, PACK_CONCAT) or
 * a document (PACK_OFF); `batch_rows` rows make an optimizer step, cut into micro-batches and ranks. */
/* A Loader remembers the last epochs it was asked for, so it belongs to one thread; a Dataset may be shared.
 */
typedef struct Loader Loader;
Loader *loader_new(const Dataset *d, const DataOpts *opts, uint64_t seed, int64_t batch_rows);
void loader_free(Loader *l);

/* Rows and optimizer steps in an epoch.  The last step of an epoch may have fewer rows. */
int64_t loader_rows(Loader *l, int64_t epoch);
int64_t loader_steps(Loader *l, int64_t epoch);
/* Tokens of all documents of an epoch, those included that PACK_CONCAT leaves at the end. */
int64_t loader_tokens(Loader *l, int64_t epoch);
/* Rows of step `step` of `epoch`, and trained tokens and documents in all of them: known before the forward. */
typedef struct StepInfo {
    /* n_tokens: without padding in loader_step, with it in loader_max */
    int64_t first_row, n_rows, n_tokens, n_trained, n_docs;
} StepInfo;
StepInfo loader_step(Loader *l, int64_t epoch, int64_t step);
/* Of rows [first_row, first_row + n_rows): tokens with padding, as loader_rows_fill lays them out. */
StepInfo loader_rows_info(Loader *l, int64_t epoch, int64_t first_row, int64_t n_rows);
/* Fills *b with rows [first_row, first_row + n_rows) of `epoch`.  n_rows 0 gives an empty batch. */
void loader_rows_fill(Loader *l, int64_t epoch, int64_t first_row, int64_t n_rows, HostBatch *b);
/* The largest n_tokens, n_docs and n_trained that n_rows consecutive rows of `epoch` can have. */
StepInfo loader_max(Loader *l, int64_t epoch, int64_t n_rows);

/* A model from a folder on the tests' device (tests/support/test_device.h): what tests of model/ and above do with
 * it.  Fails the test when a folder cannot be read. */
#pragma once

#include "model/hf_files.h"
#include "model/lora.h"
#include "tensor/safetensors.h"

typedef struct ModelRun {
    Device dev;
    Arena *arena;
    Llama m;
    LoraSet lora;
    bool has_lora;
    Tensor *grads; /* of trained Params, by index in m.params */
} ModelRun;

/* Documents back to back, on the host; positions count from 0 in each. */
typedef struct Tokens {
    int64_t n;
    int32_t *ids, *labels; /* labels under their own token, -100: not trained; or NULL */
    int32_t *cu;           /* (n_docs + 1) */
    int n_docs;
} Tokens;

/* config: another config.json than the folder's, or NULL.  adapter: a folder, or NULL. */
void model_open(ModelRun *r, const char *dir, const char *config, const char *adapter);
void model_close(ModelRun *r);
/* Marks every base parameter trained (full fine-tuning). */
void model_train_all(ModelRun *r);

/* logits of all tokens (N,V), the caller frees. */
float *model_logits(ModelRun *r, const Tokens *t);
/* Mean loss over trained tokens; every trained Param's gradient in m.params.items[i]->t.grad. */
double model_backward(ModelRun *r, const Tokens *t);
/* A slice of a gradient as float, the caller frees; NULL when there is no such parameter. */
float *model_gradient(ModelRun *r, const char *name, int64_t *n);

/* Rows [first, first + n_rows) of (.., rows, length) tensors input_ids and labels as documents. */
Tokens tokens_from_rows(const SafeTensors *f, int64_t first, int64_t n_rows);
/* input_ids, labels, cu_seqlens of a packed file. */
Tokens tokens_packed(const SafeTensors *f);
void tokens_free(Tokens *t);

/* max |a - b| / max |b| */
double relative_difference(const float *a, const float *b, int64_t n);
/* A float tensor of a file; fails the test when it is absent. */
const float *floats_of(const SafeTensors *f, const char *name, int64_t *n);

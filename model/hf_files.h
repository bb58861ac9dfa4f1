/* A model as Hugging Face folders have it: weights in, weights out.  Names are the checkpoint's own, so
 * loading is a lookup of each Param's slices. */
#pragma once

#include "base/log.h"
#include "model/llama.h"
#include "model/lora.h"
#include "model/weights.h"

/* The checks of model_load_weights alone: what is missing or does not fit. */
Status model_check_weights(const Llama *m, const char *dir, Err *err) MUST_CHECK;
/* Fills every base Param of m that has storage (F32, BF16, F16 converted) from DIR/model.safetensors or its
 * shards.  Missing tensors, shapes that do not fit and unexpected tensors are told by name (rotary inv_freq and a tied
 * lm_head.weight are ignored; other unexpected tensors are warnings). */
Status model_load_weights(Llama *m, const char *dir, Log *log, Err *err) MUST_CHECK;
/* N(0, initializer_range), norms one, biases zero; each element a pure function of seed, name and index. */
void model_init_random(Llama *m, uint64_t seed);
/* Writes the weights as dtype (DT_N: each as the file had it that it came from, else F32) into `dir` (model.safetensors, or shards of at most max_shard_bytes with an index), and config.json. */
Status model_save_weights(const Llama *m, const char *dir, DType dtype, uint64_t max_shard_bytes,
                          Err *err) MUST_CHECK; /* those alone */
Status model_save(const Llama *m, const char *dir, DType dtype, uint64_t max_shard_bytes,
                  Err *err) MUST_CHECK;
/* Its two halves, for who writes the weights otherwise: which tensors they are, and all files but the weights'. */
void model_list_weights(WeightList *out, const Llama *m, DType dtype);
Status model_save_config(const Llama *m, const char *dir, DType dtype, Err *err) MUST_CHECK;

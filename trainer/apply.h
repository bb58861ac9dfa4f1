/* What the config does to a model from outside: the model itself never reads it. */
#pragma once

#include "autograd/operand.h"
#include "dist/shard.h"
#include "trainer/config.h"

/* Sets each block's level of recompute.  A layer of train.recompute_layers that the model does not have is told. */
void apply_recompute(Llama *m, const TrainConfig *c, Problems *p);
/* Tells in what order a pass with its backward part asks for the model's quantised matrices: after the levels of recompute
 * are set. */
void apply_operands(Llama *m, Operands *o);
/* Puts the embedding where cfg->embed_on_host says; where it cannot lie on the host, that is a problem of model.embedding: host
 * and nothing to auto.  After it is known what is trained, before there are storages. */
void apply_embedding(Llama *m, TrainConfig *c, Problems *p);
/* METHOD_FULL: every parameter is trained. */
void apply_full(Llama *m);
/* Shows the shards the model's segments in order.  After shards_init. */
void apply_shards(Llama *m, ShardSet *s);

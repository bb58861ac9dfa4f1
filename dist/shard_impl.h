/* What shard.c and shard_pass.c share. */
#pragma once

#include "dist/shard.h"

/* The parameters are gathered before each use and released after it. */
static inline bool shard_comes_and_goes(const ShardSet *s, const ParamShard *sh)
{
    return sh->split && s->opts.zero == 3;
}

/* Gradients are completed in the backward pass, and have a place of their own only there. */
static inline bool shard_reduces_early(const ShardSet *s, const ParamShard *sh)
{
    return sh->trained && (s->opts.in_backward || (sh->split && s->opts.zero >= 2));
}

/* The parameters' storage is sh->whole, or nothing. */
void shard_bind(ParamShard *sh);
void shard_unbind(ParamShard *sh);
/* Their low halves lie in `array`, (total) i16; empty: they have none now. */
void shard_bind_low(ParamShard *sh, const Tensor *array);
/* Their gradients' storage is sh->whole_grad, which may be none. */
void shard_bind_grads(ParamShard *sh);
/* The stream in use goes on when sh's gather is done. */
void shard_await(ShardSet *s, ParamShard *sh);

void shard_home_open(void *ud, Param *p);
void shard_home_close(void *ud, Param *p, bool changed);
int shard_home_pieces(void *ud, Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES]);

/* What shard.c and shard_pass.c share. */
#pragma once

#include "dist/shard.h"

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
/* From here on the parameters can be read; `name` is for messages. */
void shard_need(ShardSet *s, ParamShard *sh, const char *name);
/* Drops parameters that come and go. */
void shard_release(ShardSet *s, ParamShard *sh);
/* The stream in use goes on when what was to bring sh's parameters is done. */
void shard_await(ShardSet *s, ParamShard *sh);
/* The weights on the device become what their twin in host memory is, where they have one. */
void shard_follow_master(ShardSet *s, ParamShard *sh);
/* This rank's part of a whole that has a storage: `part` itself, or a place in `whole` that it is brought to from host
 * memory, which *came tells (an event; else 0). */
Tensor shard_bring_part(ShardSet *s, ParamShard *sh, Tensor *whole, const Tensor *part,
                        int64_t *came);

/* What param_open left open (dist/shard_open.c). */
void shard_close_open(ShardSet *s);

void shard_home_open(void *ud, Param *p);
void shard_home_close(void *ud, Param *p, bool changed);
int shard_home_pieces(void *ud, Param *p, int slice, ParamPiece out[PARAM_MAX_PIECES]);

/* Nodes of the linear op with adapters. */
#include "autograd/ops/lora_node.h"

LoraArgs *lora_args_new(Ctx *c, const LoraSlice *lora, int n, const Tensor *samples,
                        const Tensor *positions)
{
    LoraArgs *args = arena_alloc(c->arena, sizeof *args);
    *args = (LoraArgs){.n = n, .samples = samples, .positions = positions};
    for (int i = 0; i < n; i++)
        args->slices[i] = lora[i];
    return args;
}

DropoutArgs lora_dropout(const Ctx *c, const LoraArgs *args, const LoraSlice *s)
{
    return (DropoutArgs){
        .p = s->dropout,
        .key = rng_mix(c->key, s->site),
        .samples = args->samples,
        .positions = args->positions,
    };
}

void lora_record(Ctx *c, const Op *op, int n_out, Tensor *const *out, Tensor *x, Tensor *w,
                 Tensor *bias, Tensor *residual, LoraArgs *args, Tensor *const *u)
{
    Tensor *in[NODE_MAX_IN] = {x, w, bias, residual};
    for (int i = 0; i < args->n; i++) {
        in[LORA_A0 + 2 * i] = args->slices[i].a;
        in[LORA_B0 + 2 * i] = args->slices[i].b;
    }
    Node *n = tape_record(c, op, n_out, out, LORA_A0 + 2 * args->n, in);
    if (!n) return;
    n->args = args;
    tape_save(n, LORA_SAVE_X, x);
    tape_save(n, LORA_SAVE_W, w);
    tape_save_source(n, LORA_SAVE_BIAS, bias);
    tape_save_source(n, LORA_SAVE_RESIDUAL, residual);
    for (int i = 0; i < args->n; i++) {
        tape_save(n, LORA_SAVE_SLICE + 3 * i, args->slices[i].a);
        tape_save(n, LORA_SAVE_SLICE + 3 * i + 1, args->slices[i].b);
        tape_save(n, LORA_SAVE_SLICE + 3 * i + 2, u[i]);
    }
}

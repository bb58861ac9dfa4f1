/* How fast a training step is, beside the bare products and attention that it cannot do without: on random weights and
 * tokens, without files.  The step is the trainer's own. */
#pragma once

#include "dist/comm.h"
#include "dist/states.h"
#include "kernels/meter.h"
#include "trainer/config.h"

typedef struct BenchOpts {
    Comm *hosts; /* the ranks that run it together; NULL: this one alone */
    int zero;    /* parallel.zero */
    Offload offload;
    DType reduce;
    bool widen;   /* gradients that are added up in f32 travel in it, too: for comparison */
    int prefetch; /* parallel.prefetch */
    int ctas;     /* parallel.ctas */
    int spare;    /* multiprocessors that products leave alone; -1: as many as ctas */
    const char *device;
    int threads; /* cpu; 0: all */
    LlamaConfig shape;
    DType compute;
    int method;      /* Method */
    QuantOpts quant; /* of the base; type QUANT_NONE: as it is */
    LoraOpts lora;
    double memory_gib;  /* of the device; 0: all that is free */
    int64_t seq, micro; /* `micro` rows of `seq` tokens at once, an optimizer step after each */
    bool full, packed; /* rows that are one document; rows packed from documents; or both in turn */
    const int32_t *lens; /* of the packed documents */
    int64_t n_lens;
    int recompute;       /* Recompute, or RECOMPUTE_AUTO */
    DType gradients;     /* train.gradients */
    StatesFormat states; /* optim.states */
    bool in_backward;    /* train.update, clipping by block; else after, by global norm */
    bool deterministic;  /* runtime.deterministic */
    bool own_attention;  /* attention by our own kernels where a library's engine would do */
    bool embed_on_host;  /* model.embedding: host */
    int scratches;       /* runtime.scratches */
    bool decode_ahead;   /* runtime.decode_ahead */
    bool no_floor;
    bool steps_only;       /* several ranks: neither mute ones nor each rank by itself */
    bool largest;          /* as many rows at once as fit, instead of `micro` */
    bool exact;            /* reserves what the plan says and no more; without floor */
    double seconds;        /* of steps, and as long of the floor; in turns */
    int64_t steps;         /* at least so many steps, and floors */
    bool profile, kernels; /* one step more: timed kernel by kernel; each kernel many times */
} BenchOpts;

/* Steps over one batch.  Of several ranks: times and memory are the worst one's, tokens and documents those of all, FLOPs and bytes
 * sent of each. */
typedef struct BenchLine {
    bool packed;
    int64_t n_tokens, n_docs;              /* of a step */
    double step_s, step_min_s, step_max_s; /* median, after warm-up */
    double floor_s;                        /* median, with floor_adamw_s; 0: it was not measured */
    double floor_adamw_s; /* full tuning: the bytes that AdamW moves, at the copy bandwidth */
    bool floor_apart;     /* measured after the steps: beside the model there was no room */
    int64_t n_steps, n_floors;
    /* several ranks, 0 where it was not measured: medians of steps in which nothing moves between them; and of every rank's by itself,
     * all at once, with all of the model */
    double mute_s, alone_s;
    bool
        mute_odd; /* mute steps met numbers that are not finite, on which a card is faster: their time is too short */
    double sent_bytes;                   /* by a rank in a step, as rings move them */
    double moved[MOVED_N];               /* bytes from and to host memory in a step, with offload */
    double flops_plain, flops_attention; /* of a step, by convention: see below */
    double loss;                         /* of the last step */
    MemStats mem;                        /* of the steps alone */
    size_t planned_peak;                 /* of mem, as the same steps on a plan device tell it */
    DeviceInfo info;                     /* after the steps */
} BenchLine;

enum { BENCH_MAX_LINES = 2 };

typedef struct BenchResult {
    const GpuSpec *gpu;          /* NULL: not in the table, or no GPU */
    int64_t n_params, n_trained; /* of the model, adapters included */
    int64_t micro;               /* rows at once */
    int ctas;              /* GPU blocks that collectives take; 0: NCCL's choice, or no NCCL */
    double first_step_s;   /* from the start to the end of the first step */
    RecomputeMix mix;      /* what recompute meant */
    size_t planned_extent; /* of the region: the peaks, and what lies idle between blocks */
    size_t region_bytes;   /* reserved */
    HostNeed host;         /* of each rank, with offload */
    bool too_large;        /* planned, and not begun: it does not fit a rank's device, or a host */
    double copy_bandwidth; /* bytes a second, read and written */
    BenchLine lines[BENCH_MAX_LINES];
    int n_lines;
    Meter meter;    /* of the step that was profiled, over the first line's batch */
    Meter repeated; /* of the step whose kernels were repeated */
} BenchResult;

/* Conventions.  flops_plain: 4 N a token for LoRA, 6 N for full tuning, N the parameters of the products, the
 * head's among them; recompute and the adapters' own products do not count.  flops_attention: 6 L H D for each token
 * of a document of L tokens and each layer (the causal half of the square, forward and twice that backward).
 *
 * The floor: the base model's products and attention, alone (trainer/floor.h); it takes turns with the steps where both
 * have room. */
Status bench_run(BenchResult *out, const BenchOpts *opts, Err *err) MUST_CHECK;

/* Bytes a second of a copy on the device, read and written. */
double bench_copy_bandwidth(Device *d);

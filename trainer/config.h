/* The configuration of a run: a YAML file and overrides become one TrainConfig, by the table in
 * config_schema.c.  The same table checks, explains (`lorac check --explain`, docs/config.md) and writes
 * the resolved config beside the output.  Lower rooms get their own option structs and never see YAML. */
#pragma once

#include "data/loader.h"
#include "model/lora.h"
#include "optim/schedule.h"
#include "trainer/host_home.h"
#include "trainer/recompute.h"

typedef enum Method { METHOD_LORA, METHOD_FULL, METHOD_QLORA } Method;
typedef enum ModelInit { INIT_CHECKPOINT, INIT_RANDOM } ModelInit;
typedef enum LoraInit { LORA_INIT_KAIMING, LORA_INIT_GAUSSIAN, LORA_INIT_PISSA } LoraInit;
typedef enum Precision { PRECISION_AUTO, PRECISION_FP32, PRECISION_BF16 } Precision;
typedef enum EmbeddingPlace { EMBEDDING_DEVICE, EMBEDDING_HOST, EMBEDDING_AUTO } EmbeddingPlace;
typedef enum UpdateWhen { UPDATE_AUTO, UPDATE_AFTER, UPDATE_IN_BACKWARD } UpdateWhen;
typedef enum FinalWeights { FINAL_LAST, FINAL_BEST } FinalWeights;

/* Paths are relative to the working directory.  Text is owned and may be NULL where a key has no
 * default.  Enums are kept as int so that the table can write them. */
typedef struct TrainConfig {
    char *model_path;
    int model_init; /* ModelInit */
    char *model_preset;
    int quantize;       /* with method qlora: index from QUANT_NF4 on */
    bool double_quant;  /* of nf4 and fp4 */
    int quant_block;    /* of nf4 and fp4: QUANT_LEAST_BLOCK << it */
    int embedding;      /* EmbeddingPlace */
    bool embed_on_host; /* what it means; for auto what was chosen (trainer/plan.h), false before */
    bool coded;         /* the session found a quantised checkpoint: the three above say nothing */
    char *tokenizer;    /* NULL: model_path */

    int method;               /* Method */
    LoraOpts lora;            /* opts.gaussian_init and pissa follow lora_init */
    int lora_init;            /* LoraInit */
    int64_t pissa_iterations; /* 0: the whole decomposition */
    char *lora_adapter;

    DataOpts data;
    DataSource source_defaults; /* data.format, data.template, ...: of sources that do not say */

    int64_t batch_global, batch_micro; /* rows; micro 0 in the file: global */

    double lr, beta1, beta2, eps, weight_decay, clip;
    int clip_by;  /* ClipBy (trainer/update.h) */
    int states;   /* StatesFormat (dist/states.h) */
    int schedule; /* ScheduleKind */
    int64_t warmup_steps;
    double warmup_ratio, min_lr_ratio, decay_ratio, gamma;
    int decay_shape; /* DecayShape */

    int64_t epochs, max_steps; /* max_steps 0: whole epochs */
    int64_t seed;
    int recompute;    /* Recompute, or RECOMPUTE_AUTO */
    RecomputeMix mix; /* what it means; for auto what was chosen (trainer/plan.h), none before */
    int64_t *recompute_layers; /* n_recompute_layers 0: all */
    int n_recompute_layers;
    int gradients; /* Precision; never auto after loading */
    int update;    /* UpdateWhen; never auto after loading */

    int64_t eval_every, eval_tokens; /* steps, 0: not during the run; at once */
    bool eval_at_start, eval_at_end;
    int64_t early_stop_patience; /* evaluations without improvement, 0: off */

    int64_t save_every, save_keep; /* steps, 0: no checkpoints; how many besides the best */
    bool save_best;
    double save_staging;     /* GiB */
    int64_t save_before_end; /* seconds before a Slurm job ends; 0: not looked at */
    int save_final;          /* FinalWeights */
    int save_dtype;          /* index into config_save_dtype */

    char *device;
    int precision; /* Precision; never auto after loading */
    bool deterministic;
    double memory_gib; /* of the device, for tensors; 0: all that is free */
    int64_t threads;   /* 0: all that the process may use */
    int64_t scratches; /* of a quantised base's decoded matrices */
    bool decode_ahead;
    char *trace;

    int64_t zero;        /* stage */
    int64_t shard_group; /* ranks; 0: all */
    int reduce;          /* Precision, never auto */
    int64_t prefetch;    /* units */
    int64_t ctas;        /* GPU blocks of a collective; -1: by step_ctas, 0: NCCL's own choice */
    int offload;         /* Offload */
    int64_t timeout;     /* seconds */

    int64_t log_every;
    bool tensorboard;

    char *output, *resume; /* resume: "auto", "never" or a path */

    char *file; /* the config's path, for messages */
    int *lines; /* by index of the schema: line in the file, 0 the default, -1 the command line */
} TrainConfig;

/* Reads and checks everything.  overrides: "key=value" with YAML values.  All errors of file and
 * overrides go to `problems`, "file:line: key: ..." or "command line: key: ...", before E_INPUT is
 * returned.  On failure *out is empty.  need_files: model, tokenizer, adapter and data that are not there are
 * errors like the others. */
Status config_load(TrainConfig *out, const char *path, const char *const *overrides,
                   int n_overrides, bool need_files, Problems *problems) MUST_CHECK;
/* The same from text, without a look at files; `name` stands for the file in messages. */
Status config_parse(TrainConfig *out, const char *text, size_t len, const char *name,
                    const char *const *overrides, int n_overrides, Problems *problems) MUST_CHECK;
void config_clear(TrainConfig *c);

/* Whether the file or the command line sets a key, and where: "c.yaml:7" or "command line", which the caller frees. */
bool config_is_set(const TrainConfig *c, const char *key);
char *config_where(const TrainConfig *c, const char *key);
/* Adds "where: key: ...". */
void config_problem(const TrainConfig *c, Problems *p, const char *key, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* c->memory_gib in bytes. */
size_t config_memory_bytes(const TrainConfig *c);
/* How the base is kept: type QUANT_NONE but for method qlora. */
QuantOpts config_quant(const TrainConfig *c);
DType config_save_dtype(const TrainConfig *c); /* DT_N: each tensor as its file had it */
DType config_compute_dtype(const TrainConfig *c);

/* Every key with its value, as YAML that loads to the same config. */
void config_write(StrBuf *out, const TrainConfig *c);
/* Every key with type, default and meaning: docs/config.md. */
void config_explain(StrBuf *out);

/* The keys that decide the mathematics of a run, "key" and "value" in turn, for checkpoints: a run may
 * only be resumed under the same ones.  Calls fn for each in the table's order; text is borrowed. */
typedef void ConfigVisit(void *ud, const char *key, const char *value);
void config_visit_math(const TrainConfig *c, ConfigVisit *fn, void *ud);
/* Every key that config_write writes, with its value. */
void config_visit(const TrainConfig *c, ConfigVisit *fn, void *ud);

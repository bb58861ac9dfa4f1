/* Every key of a config: name, type, place, default, range, one line of documentation.  A new option is
 * one line here and its use. */
#include "trainer/config_schema.h"

#include "base/str.h"

#include <stddef.h>

#define AT(member)       .offset = offsetof(TrainConfig, member)
#define COUNT(member)    .count_offset = offsetof(TrainConfig, member)
#define RANGE(low, high) .min = (low), .max = (high)
#define ABOVE(low, high) .min = (low), .max = (high), .open_min = true
#define BELOW(low, high) .min = (low), .max = (high), .open_max = true
#define CHOICES(...)     .choices = {__VA_ARGS__}
#define FORMATS          "alpaca", "samsum", "messages", "sharegpt", "completion", "text", "tokens"
#define TEMPLATES        "default", "llama2", "llama3", "chatml", "prompt", "raw", "llama3.1"
#define MANY             1e15

const ConfigField config_fields[] = {
    {"model.path", FIELD_STRING, AT(model_path),
     .doc = "model folder in Hugging Face layout; only its config.json is read when model.init is "
            "random"},
    {"model.init", FIELD_ENUM, AT(model_init), .fallback = "checkpoint", .math = true,
     CHOICES("checkpoint", "random"),
     .doc = "where the weights come from: the folder's safetensors files, or random numbers"},
    {"model.preset", FIELD_STRING, AT(model_preset), .math = true,
     .doc = "with model.init random: a named shape instead of model.path (`lorac init --help` "
            "lists them)"},
    {"model.quantize", FIELD_ENUM, AT(quantize), .fallback = "nf4", .math = true,
     CHOICES("nf4", "fp4", "int8", "fp8"),
     .doc = "with method qlora: how the matrices of the blocks are kept in memory; 4 bits with a "
            "scale "
            "for each model.quant_block, or 8 bits with a "
            "scale for each row; embedding, head and norms stay as they are"},
    {"model.double_quant", FIELD_BOOL, AT(double_quant), .fallback = "true", .math = true,
     .doc = "with nf4 and fp4: the scales in 8 bits, too (4.13 bits a weight instead of 4.5)"},
    {"model.quant_block", FIELD_ENUM, AT(quant_block), .fallback = "64", .math = true,
     CHOICES("32", "64", "128", "256", "512", "1024", "2048", "4096"),
     .doc = "with nf4 and fp4: neighbouring weights that share a scale"},
    {"model.embedding", FIELD_ENUM, AT(embedding), .fallback = "auto",
     CHOICES("device", "host", "auto"),
     .doc =
         "where a frozen embedding lies: on the device, or in the host's memory, from where each "
         "micro-batch gets its rows, with the same numbers; auto: on the host when that saves "
         "recomputing, or makes the run fit"},
    {"tokenizer", FIELD_STRING, AT(tokenizer),
     .doc = "folder or tokenizer file; the default is model.path"},

    {"method", FIELD_ENUM, AT(method), .fallback = "lora", .math = true,
     CHOICES("lora", "full", "qlora"),
     .doc = "train LoRA adapters on a frozen base, every weight, or adapters on a base in 4 or 8 "
            "bits"},
    {"lora.rank", FIELD_INT, AT(lora.rank), .fallback = "8", .math = true, RANGE(1, 32768),
     .doc = "r, the inner width of an adapter"},
    {"lora.alpha", FIELD_NUMBER, AT(lora.alpha), .fallback = "16", .math = true, ABOVE(0, 1e9),
     .doc = "an adapter's output is scaled by alpha / r"},
    {"lora.dropout", FIELD_NUMBER, AT(lora.dropout), .fallback = "0", .math = true, BELOW(0, 1),
     .doc = "probability of dropping an element of an adapter's input"},
    {"lora.rslora", FIELD_BOOL, AT(lora.rslora), .fallback = "false", .math = true,
     .doc = "scale by alpha / sqrt(r) instead"},
    {"lora.dora", FIELD_BOOL, AT(lora.dora), .fallback = "false", .math = true,
     .doc = "DoRA: the length of each row of base plus adapter is a parameter of its own"},
    {"lora.b_lr_ratio", FIELD_NUMBER, AT(lora.b_lr_ratio), .fallback = "0", .math = true,
     RANGE(0, 1e6), .doc = "LoRA+: B's learning rate is so many times optim.lr; 0: the same"},
    {"lora.targets", FIELD_STRINGS, AT(lora.targets), COUNT(lora.n_targets),
     .fallback = "all-linear", .math = true,
     .doc = "modules that get an adapter: names or dotted suffixes such as q_proj, or all-linear"},
    {"lora.layers", FIELD_INTS, AT(lora.layers), COUNT(lora.n_layers), .fallback = "[]",
     .math = true, RANGE(0, 1e6), .doc = "only in these layers, counted from 0; empty: in all"},
    {"lora.rank_pattern", FIELD_PATTERNS, AT(lora.ranks), COUNT(lora.n_ranks), .fallback = "{}",
     .math = true, RANGE(1, 32768),
     .doc = "r of the modules whose path ends, at a dot, with what a key matches (a regular "
            "expression, as in PEFT; the first counts): {q_proj: 4, layers.1.mlp.*: 32}"},
    {"lora.alpha_pattern", FIELD_PATTERNS, AT(lora.alphas), COUNT(lora.n_alphas), .fallback = "{}",
     .math = true, ABOVE(0, 1e9), .doc = "their alpha, in the same way"},
    {"lora.save_modules", FIELD_STRINGS, AT(lora.save_modules), COUNT(lora.n_save_modules),
     .fallback = "[]", .math = true,
     .doc = "modules trained whole and saved with the adapter: embed_tokens, lm_head, norm, ..."},
    {"lora.init", FIELD_ENUM, AT(lora_init), .fallback = "kaiming", .math = true,
     CHOICES("kaiming", "gaussian", "pissa"),
     .doc = "of A: uniform in +-1/sqrt(inputs) as PEFT's default, or normal with deviation 1/r; B "
            "is 0.  pissa: A and B are the principal singular vectors of their matrix, which keeps "
            "the rest "
            "(and is quantised without them); what is saved fits the base as it was, at twice the "
            "rank"},
    {"lora.pissa_iterations", FIELD_INT, AT(pissa_iterations), .fallback = "4", .math = true,
     RANGE(0, 1000),
     .doc = "with lora.init pissa: power iterations of a randomised decomposition, PEFT's "
            "pissa_niter_N; "
            "0: the exact one, PEFT's pissa, which takes minutes for a matrix of 4096 x 14336"},
    {"lora.adapter", FIELD_STRING, AT(lora_adapter), .math = true,
     .doc = "adapter folder to continue from; the keys above are its adapter_config.json's and "
            "must be left out"},

    {"data.train", FIELD_SOURCES, AT(data.train), COUNT(data.n_train), .required = true,
     .doc = "training rows: a file or folder, or a list of {path, weight, format, ...}"},
    {"data.format", FIELD_ENUM, AT(source_defaults.format), .math = true, CHOICES(FORMATS),
     .doc = "what a row looks like; for sources that do not say"},
    {"data.template", FIELD_ENUM, AT(source_defaults.chat), .fallback = "default", .math = true,
     CHOICES(TEMPLATES),
     .doc =
         "how a row becomes text; default: the format's own prompt (chats must name a template)"},
    {"data.prompt", FIELD_STRING, AT(source_defaults.prompt), .math = true,
     .doc = "with data.template prompt: text with {field}s; the answer follows it"},
    {"data.system", FIELD_STRING, AT(source_defaults.system), .math = true,
     .doc = "system message of chats that have none"},
    {"data.fields", FIELD_FIELDS, AT(source_defaults.fields), COUNT(source_defaults.n_fields),
     .fallback = "{}", .math = true,
     .doc = "names of fields that differ from the format's: {summary: abstract}"},
    {"data.eval.path", FIELD_SOURCES, AT(data.eval), COUNT(data.n_eval),
     .doc = "validation rows, written as data.train"},
    {"data.eval.share", FIELD_NUMBER, AT(data.eval_share), .fallback = "0", .math = true,
     BELOW(0, 1), .doc = "share of the training rows to hold out for validation instead"},
    {"data.eval.count", FIELD_INT, AT(data.eval_count), .fallback = "0", .math = true,
     RANGE(0, MANY), .doc = "number of training rows to hold out instead"},
    {"data.train_on", FIELD_ENUM, AT(data.train_on), .fallback = "answer", .math = true,
     CHOICES("answer", "assistant", "all"),
     .doc = "which tokens are trained: the (last) answer, every assistant turn, everything"},
    {"data.packing", FIELD_ENUM, AT(data.packing), .fallback = "best_fit", .math = true,
     CHOICES("best_fit", "off", "concat"),
     .doc =
         "documents side by side in rows of max_length, nothing dropped, each seeing itself alone; "
         "one document a row; or one long text cut into rows"},
    {"data.overlong", FIELD_ENUM, AT(data.overlong), .fallback = "error", .math = true,
     CHOICES("error", "truncate", "split"), .doc = "what to do with documents beyond max_length"},
    {"data.max_length", FIELD_INT, AT(data.max_length), .fallback = "1024", .math = true,
     RANGE(2, 1 << 24), .doc = "tokens in a document, and in a packed row"},
    {"data.allow_untrained", FIELD_BOOL, AT(data.allow_untrained), .fallback = "false",
     .math = true, .doc = "leave out rows without a trained token instead of refusing them"},
    {"data.shuffle", FIELD_BOOL, AT(data.shuffle), .fallback = "true", .math = true,
     .doc = "another order every epoch, decided by train.seed; false: the files' order"},
    {"data.cache", FIELD_STRING, AT(data.cache_dir),
     .doc = "folder for tokenised data; the default is OUTPUT/cache, off: none"},

    {"batch.global", FIELD_INT, AT(batch_global), .fallback = "8", .math = true, RANGE(1, 1 << 24),
     .doc = "rows in an optimizer step (documents with data.packing off)"},
    {"batch.micro", FIELD_INT, AT(batch_micro), .fallback = "0", RANGE(0, 1 << 24),
     .doc = "rows at once in memory, a divisor of batch.global; the rest is accumulated; 0: all"},

    {"optim.lr", FIELD_NUMBER, AT(lr), .fallback = "1e-4", .math = true, RANGE(0, 1e3),
     .doc = "peak learning rate of AdamW"},
    {"optim.beta1", FIELD_NUMBER, AT(beta1), .fallback = "0.9", .math = true, BELOW(0, 1),
     .doc = "decay of the mean of gradients"},
    {"optim.beta2", FIELD_NUMBER, AT(beta2), .fallback = "0.999", .math = true, BELOW(0, 1),
     .doc = "decay of the mean of their squares"},
    {"optim.eps", FIELD_NUMBER, AT(eps), .fallback = "1e-8", .math = true, ABOVE(0, 1),
     .doc = "added to the root of the second mean"},
    {"optim.weight_decay", FIELD_NUMBER, AT(weight_decay), .fallback = "0", .math = true,
     RANGE(0, 1e3), .doc = "decoupled decay of matrices; norms and biases have none"},
    {"optim.states", FIELD_ENUM, AT(states), .fallback = "fp32", .math = true,
     CHOICES("fp32", "int8"),
     .doc = "what AdamW keeps its two means in; int8: codes of 8 bits in blocks of 256, a quarter "
            "of the "
            "memory, as bitsandbytes' AdamW8bit; embeddings and tensors of fewer than 4096 "
            "elements stay in fp32"},
    {"optim.clip", FIELD_NUMBER, AT(clip), .fallback = "1", .math = true, RANGE(0, 1e9),
     .doc = "largest norm of the gradient; 0: no clipping"},
    {"optim.clip_by", FIELD_ENUM, AT(clip_by), .fallback = "global", .math = true,
     CHOICES("global", "block"),
     .doc =
         "global: the whole gradient's norm, as torch's clip_grad_norm_; block: each block's (the "
         "embedding's, the head's) by its own, which train.update in_backward can do"},
    {"optim.schedule", FIELD_ENUM, AT(schedule), .fallback = "cosine", .math = true,
     CHOICES("constant", "linear", "cosine", "inverse_sqrt", "wsd", "step"),
     .doc = "of the learning rate after warm-up; wsd: stable, then decay at the end; step: times "
            "optim.gamma after every epoch"},
    {"optim.warmup_steps", FIELD_INT, AT(warmup_steps), .fallback = "0", .math = true,
     RANGE(0, MANY),
     .doc =
         "steps of linear rise from 0; with wsd from the schedule's end, as transformers has it"},
    {"optim.warmup_ratio", FIELD_NUMBER, AT(warmup_ratio), .fallback = "0", .math = true,
     RANGE(0, 1), .doc = "the same as a share of all steps, rounded up"},
    {"optim.min_lr_ratio", FIELD_NUMBER, AT(min_lr_ratio), .fallback = "0", .math = true,
     RANGE(0, 1), .doc = "where the schedule ends, as a share of optim.lr"},
    {"optim.decay_ratio", FIELD_NUMBER, AT(decay_ratio), .fallback = "0.1", .math = true,
     RANGE(0, 1), .doc = "wsd: share of all steps that decay, rounded up"},
    {"optim.decay_shape", FIELD_ENUM, AT(decay_shape), .fallback = "cosine", .math = true,
     CHOICES("cosine", "linear", "sqrt"),
     .doc = "wsd: form of the decay; sqrt: 1 - sqrt(progress)"},

    {"optim.gamma", FIELD_NUMBER, AT(gamma), .fallback = "0.85", .math = true, ABOVE(0, 1),
     .doc = "step: factor of the learning rate after every epoch"},

    {"train.epochs", FIELD_INT, AT(epochs), .fallback = "1", .math = true, RANGE(1, 1e9),
     .doc = "passes over the training rows"},
    {"train.max_steps", FIELD_INT, AT(max_steps), .fallback = "0", .math = true, RANGE(0, MANY),
     .doc = "optimizer steps, instead of epochs; 0: by epochs"},
    {"train.seed", FIELD_INT, AT(seed), .fallback = "42", .math = true, RANGE(0, MANY),
     .doc = "decides everything random: initial weights, order, dropout"},
    {"train.recompute", FIELD_ENUM, AT(recompute), .fallback = "auto",
     CHOICES("none", "selective", "attention", "full", "auto"),
     .doc =
         "what backward makes again instead of keeping it, with the same numbers: nothing; norms, "
         "SwiGLU and the scaling of DoRA; products, too; attention, too; or the fastest mix of "
         "these that fits the "
         "device (docs/memory.md says what each costs)"},
    {"train.recompute_layers", FIELD_INTS, AT(recompute_layers), COUNT(n_recompute_layers),
     .fallback = "[]", RANGE(0, 1e6), .doc = "only in these layers, counted from 0; empty: in all"},
    {"train.gradients", FIELD_ENUM, AT(gradients), .fallback = "auto",
     CHOICES("auto", "fp32", "bf16"),
     .doc =
         "what gradients are kept in between backward and AdamW; bf16 (full tuning in bf16) takes "
         "half the memory, each is a sum in fp32 rounded once; auto: bf16 there when nothing is "
         "accumulated"},
    {"train.update", FIELD_ENUM, AT(update), .fallback = "auto",
     CHOICES("auto", "after", "in_backward"),
     .doc = "in_backward: AdamW updates each block as soon as its backward pass is done, so that "
            "the gradient never exists whole: full tuning, no accumulation, no clipping by global "
            "norm; auto: on cuda where nothing speaks against it"},

    {"eval.every", FIELD_INT, AT(eval_every), .fallback = "0", RANGE(0, MANY),
     .doc = "steps between evaluations; 0: none during the run"},
    {"eval.at_start", FIELD_BOOL, AT(eval_at_start), .fallback = "false",
     .doc = "evaluate before the first step"},
    {"eval.at_end", FIELD_BOOL, AT(eval_at_end), .fallback = "true",
     .doc = "evaluate after the last step, where there are validation rows"},
    {"eval.tokens", FIELD_INT, AT(eval_tokens), .fallback = "4096", RANGE(1, 1e9),
     .doc = "evaluation takes rows together up to so many tokens; one row at least"},
    {"eval.patience", FIELD_INT, AT(early_stop_patience), .fallback = "0", RANGE(0, 1e9),
     .doc = "stop early after so many evaluations without a better loss; 0: never"},

    {"save.every", FIELD_INT, AT(save_every), .fallback = "0", RANGE(0, MANY),
     .doc = "steps between checkpoints to resume from, the last step included; 0: none"},
    {"save.keep", FIELD_INT, AT(save_keep), .fallback = "2", RANGE(1, 1e9),
     .doc = "checkpoints to keep, besides the best"},
    {"save.best", FIELD_BOOL, AT(save_best), .fallback = "false",
     .doc = "save a checkpoint whenever the evaluation loss is the lowest so far, and keep it"},
    {"save.final", FIELD_ENUM, AT(save_final), .fallback = "last", CHOICES("last", "best"),
     .doc = "which weights become the output: after the last step, or of the best checkpoint"},
    {"save.dtype", FIELD_ENUM, AT(save_dtype), .fallback = "auto",
     CHOICES("auto", "fp32", "bf16", "fp16"),
     .doc = "of the written weights, rounded once from the fp32 master; auto: each tensor as the "
            "file had it that it came from, new ones fp32; what a run resumes from is always fp32"},

    {"save.staging", FIELD_NUMBER, AT(save_staging), .fallback = "16", RANGE(0, 1e6),
     .doc =
         "GiB of host memory, for each rank, to copy what is saved into, so that training goes on "
         "while it is written; no more is taken than a checkpoint needs, nor than half of what "
         "the host has free; where it is less than that, training waits for writing"},
    {"save.before_end", FIELD_INT, AT(save_before_end), .fallback = "120", RANGE(0, MANY),
     .doc = "in a Slurm job: save and stop so many seconds before its time limit "
            "(SLURM_JOB_END_TIME), with exit code 75; 0: run into it"},

    {"runtime.device", FIELD_STRING, AT(device), .fallback = "cpu",
     .doc = "backend that computes (`lorac --version` lists those built in)"},
    {"runtime.precision", FIELD_ENUM, AT(precision), .fallback = "auto", .math = true,
     CHOICES("auto", "fp32", "bf16"),
     .doc = "of products and activations: fp32, or bf16 with sums, master weights and AdamW "
            "in fp32; auto: bf16 on cuda, fp32 on the CPU"},
    {"runtime.threads", FIELD_INT, AT(threads), .fallback = "0", RANGE(0, 4096),
     .doc = "threads on the CPU; 0: as many as the process may run on; the result does not depend "
            "on it"},
    {"runtime.memory", FIELD_NUMBER, AT(memory_gib), .fallback = "0", RANGE(0, 1e6),
     .doc =
         "GiB of the device to reserve for the run, which plan and train.recompute auto then keep "
         "to; 0: all that is free"},
    {"runtime.scratches", FIELD_INT, AT(scratches), .fallback = "3", RANGE(1, 16),
     .doc = "with method qlora: how many decoded matrices of the base may be in memory at a time; "
            "1: each is decoded right before its product and dropped after it; with more, what "
            "backward asks for again soon is decoded once; the bits are the same"},
    {"runtime.decode_ahead", FIELD_BOOL, AT(decode_ahead), .fallback = "false",
     .doc = "with runtime.scratches of 2 or more, on cuda: decode the next matrix behind the "
            "product of the one before, on a few multiprocessors"},
    {"runtime.deterministic", FIELD_BOOL, AT(deterministic), .fallback = "false",
     .doc = "the same bits every time, resumed and recomputed runs included, on cuda, too: own "
            "attention and untimed products, which is slower (`lorac bench --deterministic` tells "
            "by how much); the CPU is deterministic always"},
    {"runtime.trace", FIELD_STRING, AT(trace),
     .doc = "empty folder that receives the output of every op of rank 0 (slow; for `lorac inspect "
            "--diff`)"},

    {"parallel.zero", FIELD_INT, AT(zero), .fallback = "1", RANGE(0, 3),
     .doc = "what ranks split instead of each having all of it (ZeRO stages): 0 nothing, 1 master "
            "weights and AdamW's "
            "states, 2 gradients, too, 3 parameters, too; LoRA's adapters are always whole, its "
            "frozen base is "
            "split by 3; the result does not depend on it"},
    {"parallel.shard_group", FIELD_INT, AT(shard_group), .fallback = "0", RANGE(0, 1 << 20),
     .doc = "split in groups of so many neighbouring ranks (those of a host, say), which have the "
            "same and sum their gradients; "
            "a divisor of the number of ranks; 0: all ranks are one group"},
    {"parallel.reduce", FIELD_ENUM, AT(reduce), .fallback = "fp32", CHOICES("auto", "fp32", "bf16"),
     .doc = "in what gradients are added up over ranks; bf16 rounds at every hop, and halves what "
            "gradients kept in fp32 send "
            "(those kept in bf16 travel as they are either way)"},
    {"parallel.prefetch", FIELD_INT, AT(prefetch), .fallback = "1", RANGE(0, 16),
     .doc = "with zero 3 or offloaded parameters: so many blocks are gathered or brought before "
            "they are needed; more cost memory, 0: "
            "each when it is needed"},
    {"parallel.ctas", FIELD_INT, AT(ctas), .fallback = "-1", RANGE(-1, 64),
     .doc = "GPU multiprocessors that NCCL takes for collectives beside products, which leave them "
            "alone; 0: as many as "
            "NCCL likes, with products on all; -1: as few as hide them at this many tokens a "
            "micro-batch, 0 where a cap gains nothing"},
    {"parallel.offload", FIELD_ENUM, AT(offload), .fallback = "none",
     CHOICES("none", "optimizer", "optimizer+params"),
     .doc =
         "what lives in host memory: optimizer: the fp32 master weights and AdamW's states, which "
         "the CPU's cores update; optimizer+params: the weights, too (frozen and quantised ones "
         "among them, adapters not), each unit brought to the device before its use; for one rank "
         "or many"},
    {"parallel.timeout", FIELD_INT, AT(timeout), .fallback = "1800", RANGE(1, 1e9),
     .doc = "seconds after which ranks that wait for each other give up and tell who waits where"},

    {"log.every", FIELD_INT, AT(log_every), .fallback = "10", RANGE(1, MANY),
     .doc = "steps between progress lines where stderr is no terminal"},
    {"log.tensorboard", FIELD_BOOL, AT(tensorboard), .fallback = "true",
     .doc = "write an event file for TensorBoard into OUTPUT/runs"},

    {"output", FIELD_STRING, AT(output), .required = true,
     .doc = "folder for the result, checkpoints, metrics.jsonl and the resolved config.yaml"},
    {"resume", FIELD_STRING, AT(resume), .fallback = "auto",
     .doc =
         "auto: from the last whole checkpoint in OUTPUT, if any; a checkpoint's path; or never"},
};
const int n_config_fields = sizeof config_fields / sizeof *config_fields;

#undef AT
#undef COUNT
#define AT(member)    .offset = offsetof(DataSource, member)
#define COUNT(member) .count_offset = offsetof(DataSource, member)

const ConfigField source_fields[] = {
    {"path", FIELD_STRING, AT(path), .required = true, .doc = "file or folder"},
    {"weight", FIELD_NUMBER, AT(weight), .fallback = "1", ABOVE(0, 1e6),
     .doc = "how often an epoch takes each row: 2 twice, 0.5 in every second epoch"},
    {"format", FIELD_ENUM, AT(format), CHOICES(FORMATS), .doc = "as data.format"},
    {"template", FIELD_ENUM, AT(chat), CHOICES(TEMPLATES), .doc = "as data.template"},
    {"prompt", FIELD_STRING, AT(prompt), .doc = "as data.prompt"},
    {"system", FIELD_STRING, AT(system), .doc = "as data.system"},
    {"fields", FIELD_FIELDS, AT(fields), COUNT(n_fields), .doc = "as data.fields"},
};
const int n_source_fields = sizeof source_fields / sizeof *source_fields;

int config_field_index(const char *key)
{
    for (int i = 0; i < n_config_fields; i++)
        if (str_eq(config_fields[i].key, key)) return i;
    return -1;
}

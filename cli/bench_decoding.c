/* What decoding takes, as a person reads it and as JSON. */
#include "cli/bench_decoding.h"

#include "base/json.h"
#include "base/str.h"

#include <string.h>

static void make_title(StrBuf *b, const DecodeBenchOpts *o, const char *shape)
{
    strbuf_printf(b, "%s decode %s", shape,
                  o->quant.type == QUANT_NONE ? o->compute == DT_BF16 ? "bf16" : "fp32"
                                              : quant_type_name(o->quant.type));
    if (o->quant.nested) strbuf_puts(b, " double");
    if (o->quant.type != QUANT_NONE)
        strbuf_printf(b, " in %s", o->compute == DT_BF16 ? "bf16" : "fp32");
    if (o->lora) strbuf_printf(b, ", adapters r%lld unmerged", (long long)o->lora->rank);
    strbuf_printf(b, ", batch %lld, prompt %lld, new %lld", (long long)o->batch,
                  (long long)o->prompt, (long long)o->new_tokens);
    if (o->no_graph) strbuf_puts(b, ", no graph");
    if (o->no_early) strbuf_puts(b, ", no early start");
}

static void print(StrBuf *b, const DecodeBenchOpts *o, const DecodeBenchResult *r,
                  const char *title)
{
    const double gib = 1024.0 * 1024.0 * 1024.0, giga = 1e9;
    double bytes = r->weight_bytes + r->cache_bytes, rate = bytes / r->token_s;
    strbuf_printf(b, "%s on %s\n", title, r->info.name);
    strbuf_printf(b, "  speed      %10.1f tokens/s in all, %.1f a sequence\n",
                  (double)o->batch / r->token_s, 1 / r->token_s);
    strbuf_printf(b,
                  "  token      %10.3f ms, %lld in turn (%.3f to %.3f), with the host's reading of "
                  "it\n",
                  1e3 * r->token_s, (long long)o->new_tokens, 1e3 * r->token_min_s,
                  1e3 * r->token_max_s);
    strbuf_printf(b, "  reads      %10.3f GB a pass: weights %.3f, cache %.3f\n", bytes / giga,
                  r->weight_bytes / giga, r->cache_bytes / giga);
    strbuf_printf(b,
                  "  bandwidth  %10.0f GB/s, %.1f %% of a copy's %.0f; at that rate a token would "
                  "take %.3f ms\n",
                  rate / giga, 100 * rate / r->copy_bandwidth, r->copy_bandwidth / giga,
                  1e3 * bytes / r->copy_bandwidth);
    strbuf_printf(b, "  prompt     %10.0f tokens/s\n",
                  (double)(o->batch * o->prompt) / r->prompt_s);
    strbuf_printf(b, "  passes     %10lld recorded, %lld replayed\n", (long long)r->n_recorded,
                  (long long)r->n_replayed);
    strbuf_printf(b, "  peak       %10.3f GiB live; planned %.3f\n", (double)r->peak / gib,
                  (double)r->planned_peak / gib);
}

static void number(StrBuf *b, const char *key, double v)
{
    strbuf_printf(b, ", \"%s\": ", key);
    json_write_number(b, v);
}

static void print_json(StrBuf *b, const DecodeBenchOpts *o, const DecodeBenchResult *r,
                       const char *title)
{
    double bytes = r->weight_bytes + r->cache_bytes;
    strbuf_puts(b, "{\"what\": ");
    json_write_string(b, title, strlen(title));
    strbuf_puts(b, ", \"device\": ");
    json_write_string(b, r->info.name, strlen(r->info.name));
    number(b, "decode_tokens_per_s", (double)o->batch / r->token_s);
    number(b, "token_s", r->token_s);
    number(b, "token_min_s", r->token_min_s);
    number(b, "token_max_s", r->token_max_s);
    number(b, "weight_bytes", r->weight_bytes);
    number(b, "cache_bytes", r->cache_bytes);
    number(b, "copy_bytes_per_s", r->copy_bandwidth);
    number(b, "of_copy_percent", 100 * bytes / r->token_s / r->copy_bandwidth);
    number(b, "prompt_tokens_per_s", (double)(o->batch * o->prompt) / r->prompt_s);
    number(b, "recorded", (double)r->n_recorded);
    number(b, "replayed", (double)r->n_replayed);
    number(b, "peak_bytes", (double)r->peak);
    number(b, "planned_bytes", (double)r->planned_peak);
    strbuf_puts(b, "}\n");
}

Status bench_decoding(StrBuf *b, const DecodeBenchOpts *o, const char *shape, bool json, Err *err)
{
    DecodeBenchResult r;
    TRY(bench_decode(&r, o, err));
    StrBuf title = {0};
    make_title(&title, o, shape);
    if (json)
        print_json(b, o, &r, title.data);
    else
        print(b, o, &r, title.data);
    strbuf_clear(&title);
    return OK;
}

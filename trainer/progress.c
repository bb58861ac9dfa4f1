/* Progress on a terminal and in a log file. */
#include "trainer/progress.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { MIN_BAR = 8, MAX_BAR = 30, DEFAULT_COLUMNS = 80 };

void progress_count(StrBuf *out, double v)
{
    if (v >= 1e6)
        strbuf_printf(out, "%.1fM", v / 1e6);
    else if (v >= 1e4)
        strbuf_printf(out, "%.0fk", v / 1e3);
    else if (v >= 1e3)
        strbuf_printf(out, "%.1fk", v / 1e3);
    else
        strbuf_printf(out, "%.0f", v);
}

void progress_time(StrBuf *out, double seconds)
{
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        strbuf_printf(out, "%lldh%02lldm", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        strbuf_printf(out, "%lldm%02llds", s / 60, s % 60);
    else
        strbuf_printf(out, "%llds", s);
}

static void numbers(StrBuf *b, const StepRecord *r, double eta)
{
    strbuf_printf(b, "loss %.4f  lr %.2e  norm %.3f  ", r->loss, r->lr, r->grad_norm);
    progress_count(b, r->step_time > 0 ? (double)r->tokens / r->step_time : 0);
    strbuf_puts(b, " tok/s  eta ");
    progress_time(b, eta);
}

void progress_bar(StrBuf *out, const StepRecord *r, int64_t total, double eta, int width)
{
    StrBuf text = {0};
    strbuf_printf(&text, " %lld/%lld  ", (long long)r->step, (long long)total);
    numbers(&text, r, eta);
    int bar = width - (int)text.len - 3; /* brackets, and a column free for the cursor */
    if (bar > MAX_BAR) bar = MAX_BAR;
    if (bar >= MIN_BAR) {
        int full = (int)((double)bar * (double)r->step / (double)(total > 0 ? total : 1));
        strbuf_putc(out, '[');
        for (int i = 0; i < bar; i++)
            strbuf_putc(out, i < full ? '=' : i == full ? '>' : ' ');
        strbuf_putc(out, ']');
        strbuf_append(out, text.data, text.len);
    } else {
        size_t room = width > 2 ? (size_t)width - 2 : 0;
        strbuf_append(out, text.data + 1, text.len - 1 < room ? text.len - 1 : room);
    }
    strbuf_clear(&text);
}

static int columns(FILE *to)
{
    struct winsize w;
    bool known = ioctl(fileno(to), TIOCGWINSZ, &w) == 0 && w.ws_col > 0;
    return known ? w.ws_col : DEFAULT_COLUMNS;
}

static bool shown(const Progress *p)
{
    return p->log && p->log->to && p->log->level >= LOG_INFO;
}

static void draw_bar(Progress *p, const StepRecord *r, double eta)
{
    double now = seconds_monotonic();
    bool last = r->step >= p->total;
    if (now - p->last_drawn < 0.1 && !last) return; /* fast steps: a terminal is slow */
    p->last_drawn = now;
    StrBuf b = {0};
    progress_bar(&b, r, p->total, eta, columns(p->log->to));
    fprintf(p->log->to, "\r\033[K%s", b.data);
    fflush(p->log->to);
    p->log->line_open = true;
    strbuf_clear(&b);
}

static void print_line(Progress *p, const StepRecord *r, double eta)
{
    if (r->step % p->log_every != 0 && r->step != p->total && r->step != 1) return;
    StrBuf b = {0};
    numbers(&b, r, eta);
    log_info(p->log, "step %lld/%lld  %s", (long long)r->step, (long long)p->total, b.data);
    strbuf_clear(&b);
}

void progress_step(Progress *p, const StepRecord *r)
{
    p->mean_time = p->mean_time > 0 ? 0.9 * p->mean_time + 0.1 * r->step_time : r->step_time;
    if (!shown(p)) return;
    double eta = p->mean_time * (double)(p->total - r->step);
    if (p->terminal)
        draw_bar(p, r, eta);
    else
        print_line(p, r, eta);
}

void progress_eval(Progress *p, const EvalRecord *r)
{
    log_info(p->log, "step %lld/%lld  eval loss %.4f", (long long)r->step, (long long)p->total,
             r->loss);
}

void progress_save(Progress *p, const SaveRecord *r)
{
    log_info(p->log, "checkpoint-%lld: saved in %.2f s, training stood still for %.2f s%s",
             (long long)r->step, r->time, r->stall,
             r->streamed ? " (more than save.staging holds)" : "");
}

/* The bar stays where it is; what follows begins on a new line. */
void progress_end(Progress *p)
{
    if (!shown(p) || !p->log->line_open) return;
    fputc('\n', p->log->to);
    fflush(p->log->to);
    p->log->line_open = false;
}

/* The tape and what keeps memory alive on it: private handles in saved[], gradients in the outputs'
 * handles.  Besides tensor/scope.c the only place that counts owners. */
#include "autograd/tape.h"

#include "autograd/trace.h"
#include "base/str.h"
#include "kernels/meter.h"

#include <stdlib.h>

struct Tape {
    Arena *arena;
    Node **nodes;
    int n, cap;
};

Tape *tape_new(Arena *arena)
{
    Tape *t = xcalloc(1, sizeof *t);
    t->arena = arena;
    return t;
}

/* A saved handle that waits for an output of its maker. */
typedef struct Reader {
    Tensor *handle; /* its maker is NULL when it waits no longer */
    int out;
    struct Reader *next;
} Reader;

static void saved_release(Tensor *saved)
{
    if (!saved || saved->is_param) return;
    storage_unref(saved->storage);
    saved->storage = NULL;
    saved->maker = NULL;
}

static void node_release(Node *n)
{
    for (int i = 0; i < NODE_MAX_SAVED; i++)
        saved_release(n->saved[i]);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i]) tensor_drop_grad(n->out[i]);
}

void tape_truncate(Tape *t, int n)
{
    while (t->n > n)
        node_release(t->nodes[--t->n]);
}

void tape_free(Tape *t)
{
    if (!t) return;
    tape_truncate(t, 0);
    free(t->nodes);
    free(t);
}

int tape_length(const Tape *t)
{
    return t->n;
}

static MemCategory output_category(const Ctx *c)
{
    return MEM_ACTIVATION | (c->dropped ? MEM_BRIEF : 0);
}

Tensor *tensor_new(Ctx *c, DType dtype, int n_dims, const int64_t *shape)
{
    return scope_tensor(c->scope, dtype, n_dims, shape, 0, output_category(c));
}

Tensor *tensor_new_matrix(Ctx *c, int64_t rows, int64_t cols)
{
    int64_t shape[2] = {rows, cols};
    return scope_tensor(c->scope, c->dev->compute, 2, shape, 0, output_category(c));
}

Tensor *tensor_new_padded(Ctx *c, int64_t rows, int64_t cols, int64_t pad)
{
    int64_t shape[2] = {rows, cols};
    return scope_tensor(c->scope, c->dev->compute, 2, shape, cols + pad, output_category(c));
}

Tensor *tensor_like(Ctx *c, const Tensor *t)
{
    return scope_tensor(c->scope, t->dtype, t->n_dims, t->shape, 0, output_category(c));
}

Tensor *rule_scratch(Ctx *c, DType dtype, int64_t rows, int64_t cols)
{
    int64_t shape[2] = {rows, cols};
    return scope_tensor(c->scope, dtype, 2, shape, 0, MEM_WORKSPACE);
}

Node *tape_add(Ctx *c, const Op *op)
{
    Tape *t = c->tape;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 256;
        t->nodes = xrealloc(t->nodes, (size_t)t->cap * sizeof *t->nodes);
    }
    Node *n = arena_alloc(t->arena, sizeof *n);
    n->op = op;
    n->module = c->module;
    n->tape = t;
    t->nodes[t->n++] = n;
    return n;
}

/* A module's range with the op's in it. */
static void range_begin(Ctx *c, const char *module, const Op *op)
{
    device_range(c->dev, module ? module : "no module");
    device_range(c->dev, op->name);
}

static void range_end(Ctx *c)
{
    device_range(c->dev, NULL);
    device_range(c->dev, NULL);
}

void op_begin(Ctx *c, const Op *op)
{
    if (c->dev->meter) meter_rest(c->dev->meter);
    range_begin(c, c->module, op);
    c->dropped = !c->last && (!c->tape || (op->remake && c->recompute >= op->remade_from));
    c->last = false;
}

Node *tape_record(Ctx *c, const Op *op, int n_out, Tensor *const *out, int n_in, Tensor *const *in)
{
    ASSERT(n_out <= NODE_MAX_OUT && n_in <= NODE_MAX_IN, "%s: %d outputs, %d inputs", op->name,
           n_out, n_in);
    bool wanted = false;
    for (int i = 0; i < n_in; i++)
        wanted |= in[i] && in[i]->needs_grad;
    for (int i = 0; i < n_out; i++) {
        out[i]->needs_grad = wanted && c->tape;
        if (!out[i]->name) out[i]->name = op->name;
        if (c->trace) trace_tensor(c->trace, c->dev, op->name, out[i]);
    }
    range_end(c);
    if (c->dev->meter) meter_op(c->dev->meter, c->module, op->name, METER_FORWARD);
    bool dropped = c->dropped;
    c->dropped = false;
    if (!c->tape || !wanted) return NULL;
    Node *n = tape_add(c, op);
    n->n_out = n_out;
    n->n_in = n_in;
    for (int i = 0; i < n_out; i++) {
        n->out[i] = out[i];
        if (dropped) out[i]->maker = n;
    }
    for (int i = 0; i < n_in; i++)
        n->in[i] = in[i];
    return n;
}

/* The value comes back to `handle` when its maker makes it again. */
static void wait_for_maker(Arena *arena, Tensor *handle)
{
    Node *m = handle->maker;
    Reader *r = arena_alloc(arena, sizeof *r);
    *r = (Reader){.handle = handle, .next = m->readers};
    while (r->out < m->n_out && m->out[r->out]->storage != handle->storage)
        r->out++;
    ASSERT(r->out < m->n_out, "%s does not make %s", m->op->name, handle->name);
    handle->storage = NULL;
    m->readers = r;
}

void tape_save(Node *n, int slot, Tensor *t)
{
    ASSERT(slot < NODE_MAX_SAVED && !n->saved[slot], "%s: slot %d", n->op->name, slot);
    if (!t) return;
    if (t->is_param) {
        n->saved[slot] = t;
        return;
    }
    ASSERT(t->storage, "%s: saves %s, which is dropped", n->op->name, t->name ? t->name : "?");
    Tensor *own = arena_alloc(n->tape->arena, sizeof *own);
    *own = *t;
    own->grad = NULL;
    if (own->maker)
        wait_for_maker(n->tape->arena, own);
    else
        storage_ref(own->storage);
    n->saved[slot] = own;
}

void tape_save_source(Node *n, int slot, Tensor *t)
{
    if (n->out[0]->maker != n) return;
    tape_save(n, slot, t);
    n->sources |= 1u << slot;
}

Tensor *tape_output(Ctx *c, Node *n, int i)
{
    Tensor *t = n->out[i];
    ASSERT(!t->storage, "%s is made again while it is there", t->name);
    t->offset = 0;
    t->storage = storage_new(c->dev, tensor_bytes(t), MEM_ACTIVATION | MEM_BRIEF);
    return t;
}

/* Whoever waits gets the outputs; where nobody does, they are gone again. */
static void make_again(Ctx *c, Node *m)
{
    scope_push(c->scope);
    range_begin(c, m->module, m->op);
    m->op->remake(c, m);
    range_end(c);
    scope_pop(c->scope, NULL);
    if (c->dev->meter) meter_op(c->dev->meter, m->module, m->op->name, METER_AGAIN);
    for (Reader *r = m->readers; r; r = r->next) {
        if (!r->handle->maker) continue;
        r->handle->storage = m->out[r->out]->storage;
        storage_ref(r->handle->storage);
    }
    for (int i = 0; i < m->n_out; i++) {
        storage_unref(m->out[i]->storage);
        m->out[i]->storage = NULL;
    }
    for (int i = 0; i < NODE_MAX_SAVED; i++)
        if (m->sources & 1u << i) saved_release(m->saved[i]);
}

Tensor *tape_saved(Ctx *c, Node *n, int slot)
{
    Tensor *t = n->saved[slot];
    if (!t || t->storage || !t->maker) return t;
    if (c->dev->meter) meter_op(c->dev->meter, n->module, n->op->name, METER_BACKWARD); /* so far */
    make_again(c, t->maker);
    return t;
}

Tensor *output_left(Node *n)
{
    return n->waiting ? n->out[0]->grad : NULL;
}

/* The next node, if its rule can leave what n's finish will read.  Nothing runs between the two but that rule, which must
 * not touch what n still needs. */
static Node *leaver_for(const Tape *t, const Node *n)
{
    const Tensor *x = n->saved[0];
    Node *m = t->n > 0 ? t->nodes[t->n - 1] : NULL;
    if (!m || !m->op->leaves_output || !n->op->finish) return NULL;
    if (!x || x->maker != m || x->storage || n->sources & 1) return NULL;
    const Tensor *grad = m->out[0]->grad;
    if (!grad || grad->ld != x->ld || grad->dtype != x->dtype) return NULL;
    for (int i = 0; i < n->n_in; i++)
        for (int k = 0; k < m->n_in && n->in[i]; k++)
            if (n->in[i] == m->in[k]) return NULL;
    return m;
}

static void run_rule(Ctx *c, Node *n, void (*rule)(Ctx *c, Node *n))
{
    scope_push(c->scope);
    range_begin(c, n->module, n->op);
    rule(c, n);
    range_end(c);
    if (c->dev->meter) meter_op(c->dev->meter, n->module, n->op->name, METER_BACKWARD);
    scope_pop(c->scope, NULL);
}

static void run_backward(Ctx *c, Node *n)
{
    run_rule(c, n, n->op->backward);
    if (!n->waiting) return;
    Tensor *x = n->waiting->saved[0];
    x->storage = n->out[0]->grad->storage;
    x->offset = n->out[0]->grad->offset;
    storage_ref(x->storage);
    run_rule(c, n->waiting, n->waiting->op->finish);
    node_release(n->waiting);
}

void tape_backward(Ctx *c)
{
    Tape *t = c->tape;
    if (c->dev->meter) meter_rest(c->dev->meter);
    while (t->n > 0) {
        Node *n = t->nodes[--t->n], *leaver = NULL;
        bool reached = n->op->always;
        for (int i = 0; i < n->n_out; i++)
            reached |= n->out[i]->grad != NULL;
        if (reached) {
            run_backward(c, n);
            leaver = leaver_for(t, n);
            if (leaver)
                leaver->waiting = n;
            else if (n->op->finish)
                run_rule(c, n, n->op->finish);
        }
        if (!leaver) node_release(n);
    }
}

/* A buffer of t's shape and pitch, owned by t's handle until its producer's rule has run. */
static Tensor *grad_new(Ctx *c, const Tensor *t)
{
    Tensor *g = arena_alloc(c->arena, sizeof *g);
    *g = *t;
    g->grad = NULL;
    g->maker = NULL;
    g->offset = 0;
    g->needs_grad = false;
    g->storage = storage_new(c->dev, tensor_bytes(g), MEM_ACTIVATION | MEM_BRIEF);
    return g;
}

void tensor_seed_grad(Ctx *c, Tensor *t, float value)
{
    ASSERT(!t->grad && !t->is_param, "%s has a gradient", t->name ? t->name : "?");
    t->grad = grad_new(c, t);
    int64_t n = tensor_numel(t);
    float *host = xmalloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = value;
    tensor_write_f32(c->dev, t->grad, host);
    free(host);
}

Tensor *grad_into(Ctx *c, Tensor *t, float *beta)
{
    *beta = 0;
    if (!t || !t->needs_grad) return NULL;
    if (t->is_param) {
        ASSERT(t->grad, "%s is trained but has no gradient buffer", t->name ? t->name : "?");
        *beta = t->grad_written ? 1.0f : 0.0f;
        t->grad_written = true;
        return t->grad;
    }
    if (t->grad)
        *beta = 1;
    else
        t->grad = grad_new(c, t);
    return t->grad;
}

/* A saved value's memory as the gradient of t; NULL where t has one already or others hold the value. */
static Tensor *grad_from_saved(Ctx *c, Node *n, int slot, Tensor *t)
{
    if (!t || !t->needs_grad || t->is_param || t->grad) return NULL;
    const Tensor *saved = tape_saved(c, n, slot);
    if (saved->is_param) return NULL;
    if (saved->storage->refs > 1 || saved->ld != t->ld || !tensor_same_shape(saved, t)) return NULL;
    Tensor *g = arena_alloc(c->arena, sizeof *g);
    *g = *saved;
    g->maker = NULL;
    g->needs_grad = false;
    storage_ref(g->storage);
    return t->grad = g;
}

Tensor *grad_over(Ctx *c, Node *n, int slot, Tensor *t, float *beta)
{
    *beta = 0;
    Tensor *g = grad_from_saved(c, n, slot, t);
    return g ? g : grad_into(c, t, beta);
}

static void grad_add(Ctx *c, Tensor *t, const Tensor *g)
{
    float beta;
    Tensor *into = grad_into(c, t, &beta);
    if (!into) return;
    if (beta == 0)
        c->dev->k->copy(c->dev, into, g);
    else
        c->dev->k->axpy(c->dev, into, 1, g);
}

void grad_give(Ctx *c, Node *n, int slot, Tensor *t)
{
    if (n->saved[slot] && !grad_from_saved(c, n, slot, t)) grad_add(c, t, n->saved[slot]);
}

void tensor_drop_grad(Tensor *t)
{
    if (!t->grad || t->is_param) return;
    storage_unref(t->grad->storage);
    t->grad->storage = NULL;
    t->grad = NULL;
}

Tensor *grad_of(Node *n, int out)
{
    return n->out[out]->grad;
}

void grad_pass(Ctx *c, Node *n, int out, Tensor *t)
{
    Tensor *g = n->out[out]->grad;
    if (!t || !t->needs_grad || !g) return;
    if (!t->grad && !t->is_param && g->ld == t->ld) {
        t->grad = g;
        n->out[out]->grad = NULL;
        return;
    }
    grad_add(c, t, g);
}

/* What dataset.c and loader.c share: the documents of a set, drawn from its sources' stores. */
#pragma once

#include "data/loader.h"
#include "data/store.h"

/* The stores of several sources; a training and a validation set may stand on the same ones. */
typedef struct Stores {
    TokenStore *items;
    double *weights; /* per source */
    int n;
    int refs;
} Stores;

typedef struct DocRef {
    int32_t store;
    int64_t index; /* in its docs */
} DocRef;

struct Dataset {
    Stores *stores;
    DocRef *docs;
    int64_t n_docs;
    int32_t pad;   /* the id that fills short documents */
    bool weighted; /* a training set: sources count by their weight */
    DataReport report;
};

static inline const DocEntry *dataset_entry(const Dataset *d, int64_t i)
{
    return &d->stores->items[d->docs[i].store].docs[d->docs[i].index];
}

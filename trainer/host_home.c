#include "trainer/host_home.h"

#include "kernels/plan/plan.h"
#include "tensor/region.h"

#include <string.h>

static const double GIB = 1024.0 * 1024.0 * 1024.0;

const char *offload_name(int i)
{
    static const char *const names[] = {"none", "optimizer", "optimizer+params"};
    return i >= 0 && i <= OFFLOAD_PARAMS ? names[i] : NULL;
}

static const PlanTarget host_target = {.cuda = false};

/* A region of 0 bytes would be a backend's default. */
static size_t at_least_one(size_t bytes)
{
    return bytes > 0 ? bytes : REGION_ALIGN;
}

Status host_home_open(HostHome *h, Device *dev, Offload how, const HostNeed *need, int threads,
                      Err *err)
{
    *h = (HostHome){0};
    if (how == OFFLOAD_NONE) return OK;
    bool plan = strcmp(dev->backend->name, "plan") == 0;
    DeviceOpts states = {.threads = threads}, pinned = {.threads = 1, .pinned_by = dev};
    if (plan) {
        states.target = pinned.target = &host_target;
    } else {
        states.region_bytes = at_least_one(need->states);
        pinned.region_bytes = at_least_one(need->pinned);
    }
    const Backend *host = backend_find(plan ? "plan" : "cpu");
    TRY(device_open(&h->states, host, &states, dev->compute, err));
    Status s = device_open(&h->pinned, host, &pinned, dev->compute, err);
    if (s != OK) {
        device_close(&h->states);
        return s;
    }
    h->shards = (ShardHost){&h->states, &h->pinned, how == OFFLOAD_PARAMS};
    h->open = true;
    return OK;
}

void host_home_close(HostHome *h)
{
    if (!h->open) return;
    device_close(&h->pinned);
    device_close(&h->states);
    *h = (HostHome){0};
}

const ShardHost *host_home_shards(const HostHome *h)
{
    return h->open ? &h->shards : NULL;
}

HostNeed host_home_need(const HostHome *h)
{
    if (!h->open) return (HostNeed){0};
    return (HostNeed){region_extent(h->states.region), region_extent(h->pinned.region)};
}

Status host_home_check(const HostNeed *need, size_t also, int ranks, size_t available, Err *err)
{
    double each = (double)need->states + (double)need->pinned, all = ranks * (each + (double)also);
    if (available == 0 || all <= (double)available) return OK;
    return err_set(err, E_INPUT,
                   "keeps %.2f GiB of each rank in host memory (%.2f of them pinned), %.2f for the "
                   "%d of this host with what they take besides, and it has %.2f available; take "
                   "a higher parallel.zero over more ranks, fewer ranks a host, or less offload",
                   each / GIB, (double)need->pinned / GIB, all / GIB, ranks,
                   (double)available / GIB);
}

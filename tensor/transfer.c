#include "tensor/transfer.h"

/* Two devices of one kind are both the host's memory, or both plans. */
static CopyKind kind_of(const Device *d, const Device *to, const Device *from)
{
    if (to->backend == from->backend) return COPY_ON_DEVICE;
    return to == d ? COPY_TO_DEVICE : COPY_FROM_DEVICE;
}

void transfer_copy(Device *d, Tensor *to, const Tensor *from)
{
    Device *at = to->storage->dev, *of = from->storage->dev;
    ASSERT(to->dtype == from->dtype && tensor_numel(to) == tensor_numel(from) &&
               tensor_is_dense(to) && tensor_is_dense(from),
           "transfer of %lld %s to %lld %s", (long long)tensor_numel(from), dtype_name(from->dtype),
           (long long)tensor_numel(to), dtype_name(to->dtype));
    ASSERT(at == d || of == d, "transfer: neither is on the device");
    size_t bytes = tensor_bytes(to);
    if (bytes == 0) return;
    d->backend->copy(d, tensor_data(to), tensor_data(from), bytes, kind_of(d, at, of));
    if (at != of) d->moved[of == d ? MOVED_DOWN : MOVED_UP] += bytes;
}

int64_t transfer_begin(Device *d, StreamId s, Tensor *to, const Tensor *from)
{
    int64_t computed = device_record(d);
    device_use_stream(d, s);
    device_await(d, d, computed);
    transfer_copy(d, to, from);
    int64_t done = device_record(d);
    device_use_stream(d, STREAM_COMPUTE);
    return done;
}

void transfer_await(Device *d, StreamId s, int64_t event)
{
    device_use_stream(d, s);
    device_await(d, d, event);
    device_use_stream(d, STREAM_COMPUTE);
}

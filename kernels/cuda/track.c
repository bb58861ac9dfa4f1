/* Tells a memory checker which parts of the region have an owner: without it the whole region is one valid allocation, and
 * a kernel that leaves its tensor goes unnoticed.  NVTX's memory extension, as compute-sanitizer reads it. */
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"

#include <nvtx3/nvToolsExtMem.h>

void cuda_track_open(Device *d)
{
    CudaImpl *impl = cuda_impl(d);
    nvtxMemVirtualRangeDesc_t range = {.size = d->region_bytes, .ptr = d->region_data};
    nvtxMemHeapDesc_t heap = {.extCompatID = NVTX_EXT_COMPATID_MEM,
                              .structSize = sizeof heap,
                              .usage = NVTX_MEM_HEAP_USAGE_TYPE_SUB_ALLOCATOR,
                              .type = NVTX_MEM_TYPE_VIRTUAL_ADDRESS,
                              .typeSpecificDescSize = sizeof range,
                              .typeSpecificDesc = &range};
    impl->domain = nvtxDomainCreateA("lorac");
    impl->heap = nvtxMemHeapRegister(impl->domain, &heap);
}

void cuda_track_close(Device *d)
{
    CudaImpl *impl = cuda_impl(d);
    if (!impl->heap) return;
    nvtxMemHeapUnregister(impl->domain, impl->heap);
    nvtxDomainDestroy(impl->domain);
}

void cuda_track(Device *d, void *p, size_t bytes, bool owned)
{
    CudaImpl *impl = cuda_impl(d);
    if (!impl->heap || bytes == 0) return;
    if (owned) {
        nvtxMemVirtualRangeDesc_t range = {.size = bytes, .ptr = p};
        nvtxMemRegionsRegisterBatch_t batch = {.extCompatID = NVTX_EXT_COMPATID_MEM,
                                               .structSize = sizeof batch,
                                               .regionType = NVTX_MEM_TYPE_VIRTUAL_ADDRESS,
                                               .heap = impl->heap,
                                               .regionCount = 1,
                                               .regionDescElementSize = sizeof range,
                                               .regionDescElements = &range};
        nvtxMemRegionsRegister(impl->domain, &batch);
        return;
    }
    /* what runs on it must be through before it is nobody's */
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream(d)));
    nvtxMemRegionRef_t ref = {.pointer = p};
    nvtxMemRegionsUnregisterBatch_t batch = {.extCompatID = NVTX_EXT_COMPATID_MEM,
                                             .structSize = sizeof batch,
                                             .refType = NVTX_MEM_REGION_REF_TYPE_POINTER,
                                             .refCount = 1,
                                             .refElementSize = sizeof ref,
                                             .refElements = &ref};
    nvtxMemRegionsUnregister(impl->domain, &batch);
}

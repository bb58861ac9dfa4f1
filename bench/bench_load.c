/* How fast a model folder becomes weights on a device, from the page cache: bench_load DIR [cpu|cuda] [TIMES]. */
#include "base/clock.h"
#include "base/str.h"
#include "model/hf_files.h"
#include "tensor/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_load DIR [cpu|cuda] [TIMES]\n");
        return 2;
    }
    const char *name = argc > 2 ? argv[2] : "cpu";
    int times = argc > 3 ? atoi(argv[3]) : 3;
    const Backend *backend = backend_find(name);
    bool cpu = str_eq(name, "cpu");
    Device d;
    LlamaConfig shape;
    Llama m;
    Log log = {0};
    Err err = {0};
    if (!backend) panic("there is no %s; there is %s", name, backend_names());
    if (llama_config_load(&shape, argv[1], &err) != OK) panic("%s", err.line);
    if (device_open(&d, backend, &(DeviceOpts){0}, cpu ? DT_F32 : DT_BF16, &err) != OK)
        panic("%s", err.line);
    llama_init(&m, &shape, &d, 16);
    llama_alloc(&m);
    double bytes = 0;
    SafeTensors *f;
    if (safetensors_open(&f, argv[1], &err) != OK) panic("%s", err.line);
    for (int i = 0; i < safetensors_count(f); i++)
        bytes += (double)safetensors_at(f, i)->bytes;
    safetensors_close(f);
    for (int i = 0; i < times; i++) {
        double began = seconds_monotonic();
        if (model_load_weights(&m, argv[1], &log, &err) != OK) panic("%s", err.line);
        double took = seconds_monotonic() - began;
        printf("%s: %.2f GB of file in %.3f s, %.2f GB/s\n", name, bytes * 1e-9, took,
               bytes * 1e-9 / took);
    }
    llama_clear(&m);
    device_close(&d);
    return 0;
}

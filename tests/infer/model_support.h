/* A model folder opened on the tests' device (tests/support/test_device.h). */
#pragma once

#include "model/llama.h"

typedef struct TestModel {
    Device dev;
    Llama llama;
} TestModel;

/* positions 0: as many as the model has.  Fails the test when the folder cannot be read. */
void test_model_open(TestModel *m, const char *dir, int64_t positions);
/* The same with a quantised base. */
void test_model_open_as(TestModel *m, const char *dir, int64_t positions, const QuantOpts *quant);
void test_model_close(TestModel *m);

/* The program: a table of commands. */
#include "base/str.h"
#include "cli/commands.h"
#include "dist/comm_mpi.h"
#include "dist/comm_nccl.h"
#include "kernels/kernels.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static const Command commands[] = {
    {"train", cmd_train, "fine-tune a model as a config says"},
    {"check", cmd_check, "find every error of a config, its data and model files without training"},
    {"bench", cmd_bench, "speed and memory of a training step of a named shape, beside its floor"},
    {"plan", cmd_plan, "memory, work and least time of a run, before it runs and without its GPU"},
    {"slurm", cmd_slurm, "a batch script for Slurm from a config"},
    {"eval", cmd_eval, "loss and perplexity over a data set, ROUGE of generated answers"},
    {"generate", cmd_generate, "text from a model: one prompt, a chat, or JSONL to JSONL"},
    {"merge", cmd_merge, "a LoRA adapter folded into its base model"},
    {"inspect", cmd_inspect,
     "names, types, shapes, norms and NaNs of a model, adapter or checkpoint"},
    {"tokenize", cmd_tokenize, "ids and pieces of a text; which tokens of a data file are trained"},
    {"quantize", cmd_quantize,
     "a model folder in 4 or 8 bits, as bitsandbytes and transformers read it"},
    {"init", cmd_init, "a model folder with random weights, from a named shape or a config.json"},
    {NULL, NULL, NULL},
};

static void print_help(FILE *to)
{
    fprintf(to,
            "usage: lorac COMMAND [ARGUMENTS]\n"
            "\n"
            "Fine-tunes Llama-family language models, whole or by LoRA, and runs what it tuned.\n"
            "\n");
    for (const Command *c = commands; c->name; c++)
        fprintf(to, "  %-10s %s\n", c->name, c->help);
    fprintf(to, "\n"
                "  --help     this text; lorac COMMAND --help tells a command's options\n"
                "  --version  the version and what was built in\n"
                "\n"
                "Exit codes: 0 done, 1 failed or out of memory, 2 wrong usage, config or input, 75 "
                "stopped on request: run "
                "again to go on.\n");
}

static void print_version(void)
{
    printf("lorac %s\n", LORAC_VERSION);
    printf("backends:  %s\n", backend_names());
    printf("ranks:     %s\n",
           comm_mpi_built() && comm_nccl_built() ? "sockets, Open MPI, NCCL"
           : comm_mpi_built()  ? "sockets, Open MPI (one GPU: NCCL is not built in)"
           : comm_nccl_built() ? "sockets, NCCL (no mpirun: MPI is not built in)"
                               : "sockets (CPUs alone: MPI and NCCL are not built in)");
    printf("compiler:  %s\n", LORAC_COMPILER);
    printf("libraries: %s\n", LORAC_LIBRARIES);
}

static int unknown_command(const char *word)
{
    const char *names[64] = {NULL};
    int n = 0;
    for (const Command *c = commands; c->name; c++)
        names[n++] = c->name;
    const char *near = str_nearest(word, names, n);
    if (!*word)
        fprintf(stderr, "an empty word is no command; lorac --help lists them\n");
    else if (near)
        fprintf(stderr, "%s: no such command; did you mean '%s'?\n", word, near);
    else
        fprintf(stderr, "%s: no such command; lorac --help lists them\n", word);
    return EXIT_USAGE;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (str_eq(argv[1], "--help") || str_eq(argv[1], "-h") || str_eq(argv[1], "help")) {
        print_help(stdout);
        return EXIT_DONE;
    }
    if (str_eq(argv[1], "--version")) {
        print_version();
        return EXIT_DONE;
    }
    for (const Command *c = commands; c->name; c++)
        if (str_eq(argv[1], c->name)) return c->run(argc - 1, argv + 1);
    return unknown_command(argv[1]);
}

/* A file that is opened gets the lowest number that is free: one of these, and what is said would be written to it.  What goes to
 * a closed standard output still fails. */
static void keep_standard_numbers(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return;
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is an error of a write like others */
    keep_standard_numbers();
    int code = run(argc, argv);
    bool broken = ferror(stdout) || fflush(stdout) != 0;
    if (code != EXIT_DONE || !broken) return code;
    fprintf(stderr, "cannot write to standard output\n");
    return EXIT_FAILED;
}

/* SPDX-License-Identifier: MIT */
#include <signal.h>
#include <string.h>

#include "base/util.h"
#include "cli.h"

static const struct verb verbs[] = {
        { "run", "[PROMPT|-]", "Generates text that continues a prompt.", verb_run,
          "The prompt is the operands, joined by spaces; '-' reads it from standard input.\n"
          "Ctrl-C ends the generation (exit code 130)." },
        { "chat", "", "Talks with a model, line by line.", verb_chat,
          "/reset forgets what was said, /quit leaves. Ctrl-C ends an answer; twice at the prompt, it "
          "leaves." },
        { "score", "[TEXT|-]", "Tells how likely a model finds a text.", verb_score,
          "The text is the operands, joined by spaces; '-' reads it from standard input. Its first token, or the\n"
          "begin-of-text token that the model puts before it, is not scored." },
        { "models", "", "Lists the models that the daemon serves.", verb_models },
        { "load", "NAME=FILE", "Serves a model from now on, in the place of one with that name.", verb_load,
          "Generations that run on the replaced model end on it. Holds until the daemon ends; see moed.conf(5)." },
        { "unload", "NAME", "Serves a model no longer.", verb_unload,
          "Generations that run on it end on it." },
        { "ps", "", "Lists who is connected and what they use.", verb_ps },
        { "cancel", "NUMBER...", "Ends requests, by the numbers that ps shows.", verb_cancel,
          "One's own; as root or a member of moed-admin, anybody's." },
        { "stats", "", "Prints the daemon's counters, or how much experts are used.", verb_stats },
        { "top", "", "Shows live who computes what, and lets budgets and requests be changed.", verb_top,
          "h shows the keys." },
        { "budget", "[show [PRINCIPAL] | set PRINCIPAL KEY=VALUE... | reset PRINCIPAL]",
          "Shows or changes who may use how much.", verb_budget,
          "PRINCIPAL is unit:NAME, uid:USER, gid:GROUP or default. The keys are those of [Budget] in moed.conf(5).\n"
          "Changes hold until the daemon ends, with --save beyond it. They need root, or membership in the group\n"
          "moed-admin." },
        { "explain", "[REQUEST]", "Tells why a request got what it got.", verb_explain,
          "REQUEST is its number, as ps shows it and run --stats tells it. Without one, the requests that run and\n"
          "those that ended last are listed: your own, or everybody's for those who may set budgets." },
        { "tokenize", "[TEXT|-]", "Prints the token ids of a text.", verb_tokenize },
        { "bench", "", "Measures generation by several client processes at once.", verb_bench },
        { "inspect", "FILE", "Says what a model file is and what it would cost on this machine.", verb_inspect,
          "No daemon need run; but its program, moed, does the work." },
        { "calibrate", "--text FILE MODEL", "Measures which layers of a model need their experts most.", verb_calibrate,
          "MODEL is a file. What is found goes into a file beside it, which moed reads with the model." },
        { "convert", "--type TYPE IN OUT", "Writes a model file with its matrices in another type.", verb_convert,
          "Routers and norms become F32. OUT appears when it is complete." },
        { "doctor", "[MODEL|FILE]", "Says what is missing on this machine, and how to mend it.", verb_doctor,
          "With a model's name or file, also what memory that takes." },
        { "reload", "", "Makes the daemon read its configuration again.", verb_reload },
        {},
};

static int print_help(const struct arg *args) {
        puts("usage: moectl [OPTION...] VERB [ARGUMENT...]\n\nTalks to moed, the system service for "
             "mixture-of-experts "
             "language models.\n");
        for (const struct verb *v = verbs; v->name; v++)
                printf("  %-10s %s\n", v->name, v->summary);
        putchar('\n');
        args_print(args);
        puts("\n'moectl VERB --help' tells more; so does moectl(1).");
        return cli_flush();
}

static int print_version(void) {
        printf("moectl %s\n", moed_version());
        return cli_flush();
}

int main(int argc, char **argv) {
        struct cli cli = {};
        bool version = false;
        const struct arg args[] = {
                { "json", 0, ARG_FLAG, &cli.json, NULL, "print JSON, for programs" },
                { "socket", 0, ARG_TEXT, &cli.socket, "PATH", "the daemon's socket" },
                { "help", 'h', ARG_FLAG, &cli.help, NULL, "print this" },
                { "version", 0, ARG_FLAG, &version, NULL, "print the version" },
                {},
        };
        struct reason reason = REASON_INIT;
        int n;

        /* A service manager ignores SIGPIPE for its children; a reader that left early ends us, as it does
         * cat(1). */
        signal(SIGPIPE, SIG_DFL);
        if (args_parse(args, NULL, true, argc - 1, argv + 1, &n, &reason))
                return cli_usage(NULL, "%s", reason.text);
        argv++;
        if (version)
                return print_version();
        if (n == 0 && cli.help)
                return print_help(args);
        if (n == 0)
                return cli_usage(NULL, "what is to be done? A verb is missing");
        for (const struct verb *v = verbs; v->name; v++)
                if (strcmp(v->name, argv[0]) == 0)
                        return v->run(&cli, v, n - 1, argv + 1);
        if (strcmp(argv[0], "help") == 0)
                return print_help(args);
        return cli_usage(NULL, "unknown verb '%s'", argv[0]);
}

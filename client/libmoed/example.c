/* SPDX-License-Identifier: MIT */
/* Continues a text: cc example.c -o example $(pkg-config --cflags --libs libmoed) && ./example "Once upon" */

#include <moed.h>
#include <stdio.h>

static int on_event(const struct moed_event *event, void *userdata) {
        (void) userdata;
        if (event->type == MOED_EVENT_TOKEN || event->type == MOED_EVENT_DONE)
                fwrite(event->text, 1, event->text_length, stdout);
        fflush(stdout);
        return ferror(stdout); /* nobody reads any more: end the generation */
}

int main(int argc, char **argv) {
        struct moed_request q = MOED_REQUEST_INIT;
        struct moed *m;
        int r;

        q.prompt = argc > 1 ? argv[1] : "Once upon a time";
        q.max_tokens = 64;
        r = moed_connect(&m, NULL);
        if (r == 0)
                r = moed_run(m, &q, on_event, NULL);
        if (r < 0)
                fprintf(stderr, "%s: %s\n", argv[0], moed_error(m));
        putchar('\n');
        moed_close(m);
        return r < 0;
}

/* SPDX-License-Identifier: MIT */
/* Apart from all else: term.h has macros of names like `columns`. */
#include "terminal.h"

#include <curses.h>
#include <term.h>
#include <unistd.h>

bool terminal_can_draw(void) {
        const char *cup;
        int error;
        bool can;

        if (setupterm(NULL, STDOUT_FILENO, &error) != OK)
                return false;
        cup = tigetstr("cup"); /* puts the cursor somewhere */
        can = cup && cup != (const char *) -1;
        del_curterm(cur_term);
        return can;
}

/* SPDX-License-Identifier: MIT */
#include "mapped.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host.h"

/* Taken by the handler, too, so nothing that may raise SIGBUS is done with it. */
static atomic_flag lock = ATOMIC_FLAG_INIT;
static struct list all = LIST_INIT(all);

static void lock_all(void) {
        while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire))
                ;
}

static void unlock_all(void) {
        atomic_flag_clear_explicit(&lock, memory_order_release);
}

static uintptr_t page_floor(uintptr_t at) {
        return at & ~((uintptr_t) sysconf(_SC_PAGESIZE) - 1);
}

/* The rest of the last page belongs to the file. */
static uintptr_t page_ceil(uintptr_t at) {
        return page_floor(at + (uintptr_t) sysconf(_SC_PAGESIZE) - 1);
}

static uintptr_t mapped_end(const struct mapped *m) {
        return page_ceil((uintptr_t) m->data + m->size);
}

/* Alignment: offset and address are alike modulo the size of a huge page. Not every file system sees to that. */
static void *map(int fd, size_t size) {
        const size_t huge = HOST_HUGE_PAGE;
        uint8_t *reserved, *at, *data;

        if (size < huge)
                return mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        reserved = mmap(NULL, size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (reserved == MAP_FAILED)
                return MAP_FAILED;
        at = (uint8_t *) (((uintptr_t) reserved + huge - 1) & ~(uintptr_t) (huge - 1));
        data = mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
        if (data == MAP_FAILED) {
                munmap(reserved, size + huge);
                return MAP_FAILED;
        }
        size = page_ceil(size);
        if (at > reserved)
                munmap(reserved, (size_t) (at - reserved));
        munmap(at + size, (size_t) (reserved + huge - at));
        return data;
}

int mapped_init(struct mapped *m, int fd, uint64_t size) {
        void *data;

        data = map(fd, size);
        if (data == MAP_FAILED)
                return -errno;
        m->data = data;
        m->size = size;
        m->lost = false;
        lock_all();
        list_append(&all, &m->link);
        unlock_all();
        return 0;
}

void mapped_deinit(struct mapped *m) {
        if (!m->data)
                return;
        lock_all();
        list_unlink(&m->link);
        unlock_all();
        munmap((void *) m->data, m->size);
        m->data = NULL;
}

/* Marks the one that has this byte, and tells where it ends; 0: there is none. */
static uintptr_t lose(uintptr_t at) {
        uintptr_t end = 0;
        struct mapped *m;

        lock_all();
        list_for_each(m, &all, link)
                if (at >= (uintptr_t) m->data && at < mapped_end(m)) {
                        m->lost = true;
                        end = mapped_end(m);
                }
        unlock_all();
        return end;
}

/* The rest of a file that was cut short is gone, too; and one page of a broken disk is enough to give it up. */
static bool show_zeros(void *address) {
        uintptr_t page = page_floor((uintptr_t) address), end = lose(page);

        return end && mmap((void *) page, end - page, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
        int saved = errno;

        (void) context;
        /* What another process sends has no address. A page of memory that failed may be had from the disk again. */
        if ((info->si_code != BUS_ADRERR && info->si_code != BUS_MCEERR_AR) || !show_zeros(info->si_addr)) {
                signal(number, SIG_DFL);
                raise(number);
        }
        errno = saved;
}

int mapped_survive(void) {
        struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };

        return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

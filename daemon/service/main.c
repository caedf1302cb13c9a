/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "convert-tool.h"
#include "inspect.h"
#include "listener.h"
#include "manager.h"
#include "mapped.h"
#include "options.h"
#include "server.h"

struct daemon {
        struct server server;
        struct manager manager;
        struct options options;
        struct loop_source signal_source;
        int signals;
};

static int read_config(struct server *server, struct config **ret, struct reason *reason) {
        struct daemon *daemon = container_of(server, struct daemon, server);
        int r;

        r = options_load_config(&daemon->options, ret, NULL, reason);
        return r == CONFIG_E_INVALID ? EINVAL : r;
}

static void reload_on_signal(struct daemon *daemon) {
        struct reason reason = REASON_INIT;

        manager_reloading();
        if (change_reload(&daemon->server, NULL, 0, &reason) == 0)
                return;
        log_error("configuration not reloaded, the old one stays: %s", reason.text);
        manager_ready("Serving");
}

static int on_signal(void *userdata, int result) {
        struct daemon *daemon = userdata;
        struct signalfd_siginfo info;

        while (read(daemon->signals, &info, sizeof(info)) == sizeof(info)) {
                if (info.ssi_signo == SIGHUP) {
                        reload_on_signal(daemon);
                        continue;
                }
                manager_stopping("Ending the running generations");
                server_drain(&daemon->server);
        }
        return 0;
}

static int watch_signals(struct daemon *daemon) {
        daemon->signals = -1;
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        daemon->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (daemon->signals < 0)
                return -errno;
        return loop_watch(&daemon->server.loop, &daemon->signal_source, daemon->signals, on_signal, daemon);
}

/* Before any thread starts, so that none takes a signal that the signalfd shall see. */
static void prepare_process(void) {
        struct rlimit limit;
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        sigprocmask(SIG_BLOCK, &set, NULL);
        signal(SIGPIPE, SIG_IGN);
        (void) mapped_survive();
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
                limit.rlim_cur = limit.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &limit);
        }
}

static int listen_for_clients(struct daemon *daemon, struct reason *reason) {
        const struct config *config = daemon->server.config;
        const char *chosen = daemon->options.socket ? daemon->options.socket : config->socket;
        _cleanup_(freep) char *path = chosen ? strdup(chosen) : NULL;
        int fd, r;

        r = manager_listen_fd(&fd, reason);
        if (r == 0 && fd < 0 && !path)
                r = listener_default_path(&path, daemon->options.scope, reason);
        if (r != 0)
                return r;
        return listener_new(&daemon->server.listener, &daemon->server, fd, path, config->socket_mode, reason);
}

static int start(struct daemon *daemon, struct config *config, struct reason *reason) {
        char status[300];
        int r;

        r = server_init(&daemon->server, config, reason);
        if (r != 0)
                return r == SERVER_E_MODEL ? EX_DATAERR : EX_OSERR;
        daemon->server.read_config = read_config;
        if (watch_signals(daemon) < 0 || manager_init(&daemon->manager, &daemon->server) < 0) {
                reason_set(reason, "signals or the watchdog's timer cannot be watched");
                return EX_OSERR;
        }
        r = listen_for_clients(daemon, reason);
        if (r != 0)
                return EX_UNAVAILABLE;
        snprintf(status, sizeof(status), "Serving on %s", listener_path(daemon->server.listener));
        log_info("moed " MOED_VERSION " serves on %s, ready in %llu ms", listener_path(daemon->server.listener),
                 (unsigned long long) ((now_nsec() - daemon->server.started) / NSEC_PER_MSEC));
        manager_ready(status);
        return EX_OK;
}

static int run(struct daemon *daemon, struct config *config) {
        struct reason reason = REASON_INIT;
        int status, r;

        status = start(daemon, config, &reason);
        if (status != EX_OK) {
                log_error("%s", reason.text[0] ? reason.text : "not enough memory to start");
        } else {
                r = server_run(&daemon->server);
                if (r < 0) {
                        log_error("the daemon cannot go on: %s", strerror(-r));
                        status = EX_OSERR;
                }
                log_info("stopped");
        }
        loop_source_remove(&daemon->signal_source);
        manager_deinit(&daemon->manager);
        close_fd(daemon->signals);
        server_deinit(&daemon->server);
        return status;
}

static int check_config(const struct options *options) {
        struct reason reason = REASON_INIT;
        struct config *config;

        if (options_load_config(options, &config, stdout, &reason) != 0) {
                fprintf(stderr, "moed: the configuration is not valid: %s\n", reason.text);
                return EX_CONFIG;
        }
        printf("%s: valid, %zu models, %zu budget rules\n", config->source ? config->source : "defaults",
               config->n_models, config->budgets.n_rules);
        config_free(config);
        return EX_OK;
}

static int inspect(const struct options *options) {
        struct reason reason = REASON_INIT;
        struct config *config;
        int status;

        if (options_load_config(options, &config, NULL, &reason) != 0) {
                fprintf(stderr, "moed: the configuration is not valid: %s\n", reason.text);
                return EX_CONFIG;
        }
        status = inspect_main(config, options->inspect, options->json);
        config_free(config);
        return status;
}

int main(int argc, char **argv) {
        static struct daemon daemon = { .manager = MANAGER_NULL, .signals = -1 };
        struct reason reason = REASON_INIT;
        struct config *config;
        int status;

        status = options_parse(&daemon.options, argc, argv);
        if (status >= 0)
                return status;
        if (daemon.options.check_config)
                return check_config(&daemon.options);
        log_init("moed", daemon.options.has_log_level ? daemon.options.log_level : LOG_INFO);
        if (daemon.options.convert)
                return convert_main(daemon.options.convert, daemon.options.files[0], daemon.options.files[1],
                                    daemon.options.force);
        if (daemon.options.calibrate.model)
                return calibrate_main(&daemon.options.calibrate);
        if (daemon.options.inspect)
                return inspect(&daemon.options);
        if (options_load_config(&daemon.options, &config, NULL, &reason) != 0) {
                log_error("the configuration is not valid: %s", reason.text);
                return EX_CONFIG;
        }
        log_set_level(config->log_level);
        if (config->n_models == 0) {
                config_free(config);
                log_error("there is no model to serve, and the demo model was not installed: name one with "
                          "--model NAME=FILE, or in a [Model NAME] section of moed.conf");
                return EX_CONFIG;
        }
        prepare_process();
        return run(&daemon, config);
}

/* SPDX-License-Identifier: MIT */
#pragma once

/* The lines of moed.conf(5): text of one file into a struct config. config.c finds the files. One thread. */

#include "config.h"

extern const struct config config_defaults;

_printf_(3, 4) void config_report_add(struct config_report *report, bool error, const char *format, ...);

/* Puts what the text says over what `config` says. `file` is its name for messages. Mistakes go to the report and are
 * passed over. `text` may hold any bytes. -ENOMEM. */
int config_parse(struct config *config, const char *file, const char *text, size_t length,
                 struct config_report *report);
/* The same for saved budgets, which go to config->saved: no other section may stand there. */
int config_parse_saved(struct config *config, const char *file, const char *text, size_t length,
                       struct config_report *report);
/* What can be told only when everything was read: models without a file, the default model. */
void config_parse_finish(struct config *config, struct config_report *report);

/* Whether it can name a model. CONFIG_E_INVALID. */
int config_model_name_check(const char *name, struct reason *reason);
/* The model of this name, made where there is none. CONFIG_E_INVALID: too many; -ENOMEM. */
int config_model_get(struct config *config, const char *name, const char *source, struct config_model **ret);
/* Makes it the default, and no other. */
void config_model_set_default(struct config *config, struct config_model *model);

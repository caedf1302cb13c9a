/* SPDX-License-Identifier: MIT */
#pragma once

/* The model that comes with moed (daemon/demo), for a configuration that names none. */

#define DEFAULT_MODEL_NAME "demo"

/* Its file, malloc()ed: of the build tree that this program lies in, else of the installation; NULL when it is in
 * neither. 0 or -ENOMEM. */
int default_model_find(char **ret);

/* The least that a plugin can do: let every statement pass. What a call costs is measured with it. */
#include "../../c/headgate.h"

HG_EXPORT("pre_query") hg_answer pre_query(const char *at, hg_size size) {
  (void)at, (void)size;
  return HG_DEFAULT;
}

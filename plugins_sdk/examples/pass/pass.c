/* pass: lets every statement pass; what a plugin costs at the least (make bench). */
#include "headgate.h"

HG_EXPORT(pre_query) u64 pre_query(char *input, u32 length) {
  (void)input;
  (void)length;
  return HG_PASS;
}

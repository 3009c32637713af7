;; plugin_init traps: the load must be refused.
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
  (func (export "plugin_init") (param i32 i32) (result i64) unreachable)
  (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))

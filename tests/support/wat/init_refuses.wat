;; plugin_init answers block: the load must be refused with its reason.
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
  (func (export "plugin_init") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 45)))
  (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0))
  (data (i32.const 16) "{\22action\22:\22block\22,\22value\22:\22I want a license\22}"))

;; pre_query calls itself until the stack ends.
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
  (func $deeper (param i64) (result i64)
    (i64.add (i64.const 1) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
  (func (export "pre_query") (param i32 i32) (result i64) (call $deeper (i64.const 0))))

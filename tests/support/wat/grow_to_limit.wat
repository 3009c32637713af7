;; pre_query grows memory page by page until refused, then goes on politely.
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
  (func (export "pre_query") (param i32 i32) (result i64)
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (i64.const 0)))

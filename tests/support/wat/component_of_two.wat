;; A component of two: the outer one hands its call on to the inner one, through an adapter between
;; their memories, as language tools make them. The answer is the input.
(component
  (component $Inner
    (core module $m
      (memory (export "memory") 2)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
      (func (export "call") (param i32 i32 i32 i32) (result i32)
        (i32.store (i32.const 16) (local.get 2))
        (i32.store (i32.const 20) (local.get 3))
        (i32.const 16)))
    (core instance $i (instantiate $m))
    (func (export "call") (param "hook" string) (param "input" string) (result string)
      (canon lift (core func $i "call") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
  (component $Outer
    (import "inner"
      (func $inner (param "hook" string) (param "input" string) (result string)))
    (core module $memory
      (memory (export "memory") 2)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192)))
    (core instance $memory (instantiate $memory))
    (core func $lowered
      (canon lower (func $inner) (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
    (core module $m
      (import "inner" "call" (func $call (param i32 i32 i32 i32 i32)))
      (func (export "call") (param i32 i32 i32 i32) (result i32)
        (call $call (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 16))
        (i32.const 16)))
    (core instance $i (instantiate $m
      (with "inner" (instance (export "call" (func $lowered))))))
    (func (export "call") (param "hook" string) (param "input" string) (result string)
      (canon lift (core func $i "call") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")))))
  (instance $a (instantiate $Inner))
  (instance $b (instantiate $Outer (with "inner" (func $a "call"))))
  (export "call" (func $b "call")))

;; A component: call(hook, input) -> string. An input that starts with "L" loops, with "T" traps,
;; with "E" answers the empty string; everything else gets the JSON below.
(component
  (core module $m
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $next)
      (global.set $next (i32.add (global.get $next) (local.get 3))))
    (func (export "call") (param i32 i32 i32 i32) (result i32)
      (global.set $next (i32.const 8192))
      (i32.store (i32.const 16) (i32.const 1024))
      (i32.store (i32.const 20) (i32.const 31))
      (if (i32.eq (i32.load8_u (local.get 2)) (i32.const 76)) (then (loop $l (br $l))))
      (if (i32.eq (i32.load8_u (local.get 2)) (i32.const 84)) (then unreachable))
      (if (i32.eq (i32.load8_u (local.get 2)) (i32.const 69))
        (then (i32.store (i32.const 20) (i32.const 0))))
      (i32.const 16))
    (data (i32.const 1024) "{\22action\22:\22block\22,\22value\22:\22no\22}"))
  (core instance $i (instantiate $m))
  (func (export "call") (param "hook" string) (param "input" string) (result string)
    (canon lift (core func $i "call") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))

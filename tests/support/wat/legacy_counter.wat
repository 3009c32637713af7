;; ABI 0. Counts its own calls in memory; answers block from the second one on. With a fresh
;; instance for every call there is no second one. alloc is a bump allocator that never frees.
(module
  (import "env" "kv_get" (func $kv_get (param i32 i32 i32 i32) (result i32)))
  (import "env" "kv_set" (func $kv_set (param i32 i32 i32 i32) (result i32)))
  (import "env" "sha256_hex" (func $sha256_hex (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func (export "alloc") (param i32) (result i32)
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 0))))
  (func (export "dealloc") (param i32 i32))
  (func (export "pre_query") (param i32 i32) (result i64)
    ;; calls in this instance
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    ;; sha256 of the input, kept in KV under "k"
    (drop (call $sha256_hex (local.get 0) (local.get 1) (i32.const 128)))
    (drop (call $kv_set (i32.const 8) (i32.const 1) (i32.const 128) (i32.const 64)))
    (if (result i64) (i32.gt_u (i32.load (i32.const 0)) (i32.const 1))
      (then (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 33)))
      (else (i64.const 0))))
  (func (export "post_query") (param i32 i32))
  (data (i32.const 8) "k")
  (data (i32.const 16) "{\22action\22:\22block\22,\22value\22:\22no\22}  "))

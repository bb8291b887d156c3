;; The flash sale of Easegress's cookbook, as its AssemblyScript program does it:
;; before `startTime` nobody buys, then the lucky ones (a part of 1 - `blockRatio`) do, at most `maxPermission` of them, and who was
;; lucky once stays so, on every machine.
(module
  (import "easegress" "host_req_get_header" (func $header (param i32) (result i32)))
  (import "easegress" "host_resp_set_body" (func $body (param i32)))
  (import "easegress" "host_cluster_get_string" (func $get (param i32) (result i32)))
  (import "easegress" "host_cluster_put_string" (func $put (param i32 i32)))
  (import "easegress" "host_cluster_count_key" (func $count (param i32) (result i32)))
  (import "easegress" "host_get_unix_time_in_ms" (func $now (result i64)))
  (import "easegress" "host_rand" (func $rand (result f64)))
  (memory (export "memory") 2)

  ;; Strings: length with NUL, bytes, NUL. Data: length, bytes.
  (data (i32.const 16) "\0a\00\00\00startTime\00")
  (data (i32.const 48) "\0b\00\00\00blockRatio\00")
  (data (i32.const 80) "\0e\00\00\00maxPermission\00")
  (data (i32.const 112) "\0e\00\00\00Authorization\00")
  (data (i32.const 144) "\04\00\00\00id/\00")
  (data (i32.const 160) "\05\00\00\00true\00")
  (data (i32.const 176) "\0e\00\00\00not start yet.")
  (data (i32.const 208) "\09\00\00\00sold out.")

  (global $start (mut f64) (f64.const 0))
  (global $ratio (mut f64) (f64.const 0))
  (global $most (mut f64) (f64.const 0))

  ;; Memory of one run is used again in the next.
  (global $floor (mut i32) (i32.const 4096))
  (global $heap (mut i32) (i32.const 4096))
  (func $alloc (export "wasm_alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    (local.get $at))
  (func (export "wasm_free") (param i32))

  (func $equal (param $a i32) (param $b i32) (result i32)
    (local $left i32)
    (local.set $left (i32.add (i32.load (local.get $a)) (i32.const 4)))
    (loop $next
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (if (i32.ne (i32.load8_u (i32.add (local.get $a) (local.get $left))) (i32.load8_u (i32.add (local.get $b) (local.get $left))))
        (then (return (i32.const 0))))
      (br_if $next (local.get $left)))
    (i32.const 1))

  ;; A decimal number of digits with at most one point.
  (func $number (param $text i32) (result f64)
    (local $at i32) (local $end i32) (local $digit i32) (local $value f64) (local $unit f64)
    (local.set $at (i32.add (local.get $text) (i32.const 4)))
    (local.set $end (i32.sub (i32.add (local.get $at) (i32.load (local.get $text))) (i32.const 1)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (if (i32.ge_u (local.get $digit) (i32.const 10))
        (then (local.set $unit (f64.const 1)))
        (else (if (f64.eq (local.get $unit) (f64.const 0))
          (then (local.set $value (f64.add (f64.mul (local.get $value) (f64.const 10)) (f64.convert_i32_u (local.get $digit)))))
          (else
            (local.set $unit (f64.div (local.get $unit) (f64.const 10)))
            (local.set $value (f64.add (local.get $value) (f64.mul (local.get $unit) (f64.convert_i32_u (local.get $digit)))))))))
      (br $next)))
    (local.get $value))

  (func (export "wasm_init") (param $list i32)
    (local $left i32) (local $name i32) (local $value i32)
    (global.set $floor (global.get $heap))
    (local.set $left (i32.load (local.get $list)))
    (local.set $name (i32.add (local.get $list) (i32.const 4)))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $left)))
      (local.set $value (i32.add (i32.add (local.get $name) (i32.const 4)) (i32.load (local.get $name))))
      (if (call $equal (local.get $name) (i32.const 16)) (then (global.set $start (call $number (local.get $value)))))
      (if (call $equal (local.get $name) (i32.const 48)) (then (global.set $ratio (call $number (local.get $value)))))
      (if (call $equal (local.get $name) (i32.const 80)) (then (global.set $most (call $number (local.get $value)))))
      (local.set $name (i32.add (i32.add (local.get $value) (i32.const 4)) (i32.load (local.get $value))))
      (local.set $left (i32.sub (local.get $left) (i32.const 2)))
      (br $next))))

  ;; "id/" and the user.
  (func $key (result i32)
    (local $user i32) (local $key i32) (local $length i32)
    (local.set $user (call $header (i32.const 112)))
    (local.set $length (i32.load (local.get $user)))
    (local.set $key (call $alloc (i32.add (local.get $length) (i32.const 7))))
    (i32.store (local.get $key) (i32.add (local.get $length) (i32.const 3)))
    (memory.copy (i32.add (local.get $key) (i32.const 4)) (i32.const 148) (i32.const 3))
    (memory.copy (i32.add (local.get $key) (i32.const 7)) (i32.add (local.get $user) (i32.const 4)) (local.get $length))
    (local.get $key))

  (func (export "wasm_run") (result i32)
    (local $key i32)
    (global.set $heap (global.get $floor))
    (if (f64.lt (f64.convert_i64_s (call $now)) (global.get $start))
      (then (call $body (i32.const 176)) (return (i32.const 1))))
    (local.set $key (call $key))
    (if (call $equal (call $get (local.get $key)) (i32.const 160)) (then (return (i32.const 0))))
    (if (i32.or
          (f64.ge (f64.convert_i32_s (call $count (i32.const 144))) (global.get $most))
          (f64.lt (call $rand) (global.get $ratio)))
      (then (call $body (i32.const 208)) (return (i32.const 2))))
    (call $put (local.get $key) (i32.const 160))
    (i32.const 0)))

;; A proxy-wasm filter that does what the request's field `x-run` says, by its first letter.
(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $local (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_http_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $share (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_register_shared_queue" (func $queue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_enqueue_shared_queue" (func $push (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $pop (param i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $period (param i32) (result i32)))
  (import "env" "proxy_grpc_call" (func $grpc (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 8192))
  (global $waiting (mut i32) (i32.const 0))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    (local.get $at))
  (data (i32.const 16) "x-run")
  (data (i32.const 32) "x-out")
  (data (i32.const 48) "x-back")
  (data (i32.const 64) "seen")
  (data (i32.const 80) "no entry")
  (data (i32.const 96) ":path")
  (data (i32.const 112) "/new?b=1")
  (data (i32.const 128) "request\00method")
  (data (i32.const 160) "auth")
  (data (i32.const 176) "counter")
  (data (i32.const 192) "x-trailer")
  (data (i32.const 208) "tick")
  ;; A map of one pair that says it has a name of 4 GiB.
  (data (i32.const 224) "\01\00\00\00\ff\ff\ff\ff\01\00\00\00a\00b\00")
  ;; A map of three pairs: :method GET, :path /ask and :authority auth.
  (data (i32.const 400) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\04\00\00\00\0a\00\00\00\04\00\00\00:method\00GET\00:path\00/ask\00:authority\00auth\00")
  (data (i32.const 320) ":status")
  (data (i32.const 336) "plugin_root_id")
  ;; 1000: an address, 1004: a length, 1008: a version, 1012: a queue, 1016: a metric, 1020: a call.
  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (drop (call $define (i32.const 0) (i32.const 176) (i32.const 7) (i32.const 1016)))
    (drop (call $queue (i32.const 208) (i32.const 4) (i32.const 1012)))
    ;; A configuration has it tick.
    (if (local.get $size) (then (drop (call $period (i32.const 10)))))
    (i32.const 1))
  ;; Where the context is that has made a call, of the last 256.
  (func $caller (param $token i32) (result i32)
    (i32.add (i32.const 3000) (i32.mul (i32.const 4) (i32.and (local.get $token) (i32.const 255)))))
  (func $out (param $address i32) (param $length i32)
    (drop (call $add (i32.const 0) (i32.const 32) (i32.const 5) (local.get $address) (local.get $length))))
  (func (export "proxy_on_request_headers") (param $context i32) (param $fields i32) (param $ends i32) (result i32)
    (local $order i32)
    (global.set $heap (i32.const 8192))
    (drop (call $increment (i32.load (i32.const 1016)) (i64.const 1)))
    (if (call $get (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 1000) (i32.const 1004)) (then (return (i32.const 0))))
    (local.set $order (i32.load8_u (i32.load (i32.const 1000))))
    (if (i32.eq (local.get $order) (i32.const 97)) ;; a: add what it was asked with
      (then (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))))
    (if (i32.eq (local.get $order) (i32.const 98)) ;; b: the body
      (then (return (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 99)) ;; c: call and wait
      (then
        (drop (call $call (i32.const 160) (i32.const 4) (i32.const 400) (i32.const 67) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 5000) (i32.const 1020)))
        (i32.store (call $caller (i32.load (i32.const 1020))) (local.get $context))
        (return (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 100)) ;; d: share, and say how it went
      (then
        (drop (call $shared (i32.const 16) (i32.const 5) (i32.const 1000) (i32.const 1004) (i32.const 1008)))
        (i32.store8 (i32.const 2000) (i32.add (i32.const 48)
          (call $share (i32.const 16) (i32.const 5) (i32.const 64) (i32.const 4) (i32.load (i32.const 1008)))))
        (i32.store8 (i32.const 2001) (i32.add (i32.const 48)
          (call $share (i32.const 16) (i32.const 5) (i32.const 64) (i32.const 4) (i32.const 77))))
        (call $out (i32.const 2000) (i32.const 2))))
    (if (i32.eq (local.get $order) (i32.const 101)) ;; e: an edit of many kinds
      (then
        (drop (call $replace (i32.const 0) (i32.const 96) (i32.const 5) (i32.const 112) (i32.const 8)))
        (drop (call $remove (i32.const 0) (i32.const 16) (i32.const 5)))
        (drop (call $property (i32.const 128) (i32.const 14) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))))
    (if (i32.eq (local.get $order) (i32.const 103)) ;; g: grow
      (then (loop $on (drop (memory.grow (i32.const 16))) (br $on))))
    (if (i32.eq (local.get $order) (i32.const 104)) ;; h: a map that lies, whose status is told
      (then
        (i32.store8 (i32.const 2000) (i32.add (i32.const 48) (call $set_pairs (i32.const 0) (i32.const 224) (i32.const 16))))
        (call $out (i32.const 2000) (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 105)) ;; i: which filter it is, and what its VM is configured with
      (then
        (drop (call $property (i32.const 336) (i32.const 14) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))
        (drop (call $buffer (i32.const 6) (i32.const 0) (i32.const 100) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))))
    (if (i32.eq (local.get $order) (i32.const 107)) ;; k: keep the worker for many turns
      (then
        (local.set $order (i32.const 400000000))
        (loop $on (br_if $on (local.tee $order (i32.sub (local.get $order) (i32.const 1)))))))
    (if (i32.eq (local.get $order) (i32.const 108)) ;; l: loop
      (then (loop $on (br $on))))
    (if (i32.eq (local.get $order) (i32.const 109)) ;; m: headers without end
      (then (loop $on
        (drop (call $add (i32.const 0) (i32.const 32) (i32.const 5) (i32.const 4096) (i32.const 4096)))
        (br $on))))
    (if (i32.eq (local.get $order) (i32.const 111)) ;; o: a wild address
      (then (drop (call $log (i32.const 2) (i32.const -4) (i32.const 100)))))
    (if (i32.eq (local.get $order) (i32.const 112)) ;; p: pause for nothing
      (then (return (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 113)) ;; q: a queue, and what came out of it
      (then
        (drop (call $push (i32.load (i32.const 1012)) (i32.const 80) (i32.const 8)))
        (drop (call $pop (i32.load (i32.const 1012)) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))))
    (if (i32.eq (local.get $order) (i32.const 114)) ;; r: refuse
      (then
        (drop (call $local (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 80) (i32.const 8) (i32.const 0) (i32.const 0)
          (i32.const -1)))
        (return (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 116)) ;; t: trap
      (then (unreachable)))
    (if (i32.eq (local.get $order) (i32.const 117)) ;; u: what is not there
      (then
        (i32.store8 (i32.const 2000) (i32.add (i32.const 48) (call $grpc (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
        (call $out (i32.const 2000) (i32.const 1))))
    (if (i32.eq (local.get $order) (i32.const 119)) ;; w: wait for a tick
      (then (global.set $waiting (local.get $context)) (return (i32.const 1))))
    (i32.const 0))
  (func (export "proxy_on_request_body") (param $context i32) (param $bytes i32) (param $ends i32) (result i32)
    ;; The new one in front of the old one.
    (drop (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_http_call_response") (param $context i32) (param $token i32) (param $fields i32) (param $bytes i32) (param i32)
    ;; The root is told, and says whose call it was.
    (if (i32.ne (local.get $context) (i32.const 1)) (then (unreachable)))
    (drop (call $effective (i32.load (call $caller (local.get $token)))))
    (if (i32.eqz (local.get $fields))
      (then
        (drop (call $local (i32.const 502) (i32.const 0) (i32.const 0) (i32.const 80) (i32.const 8) (i32.const 0) (i32.const 0)
          (i32.const -1))))
      (else
        (drop (call $get (i32.const 6) (i32.const 320) (i32.const 7) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))
        (drop (call $buffer (i32.const 4) (i32.const 0) (i32.const 100) (i32.const 1000) (i32.const 1004)))
        (call $out (i32.load (i32.const 1000)) (i32.load (i32.const 1004)))
        (drop (call $continue (i32.const 0))))))
  (func (export "proxy_on_tick") (param $root i32)
    (if (global.get $waiting)
      (then
        (drop (call $effective (global.get $waiting)))
        (drop (call $continue (i32.const 0)))
        (global.set $waiting (i32.const 0)))))
  (func (export "proxy_on_response_headers") (param $context i32) (param $fields i32) (param $ends i32) (result i32)
    (drop (call $add (i32.const 2) (i32.const 48) (i32.const 6) (i32.const 64) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_response_body") (param $context i32) (param $bytes i32) (param $ends i32) (result i32)
    (drop (call $set_buffer (i32.const 1) (local.get $bytes) (i32.const 0) (i32.const 64) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_response_trailers") (param $context i32) (param $fields i32) (result i32)
    (drop (call $replace (i32.const 3) (i32.const 192) (i32.const 9) (i32.const 64) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_log") (param $context i32)
    (drop (call $increment (i32.load (i32.const 1016)) (i64.const 1000)))))

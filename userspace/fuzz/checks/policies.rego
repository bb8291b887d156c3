package http

default allow = false

# Everybody may read.
allow { input.request.method == "GET"; input.request.path_parts[0] == "public" }

allow {
  [valid, _, claims] := io.jwt.decode_verify(trim_prefix(input.request.headers.Authorization, "Bearer "), {"secret": "s", "alg": "HS256"})
  valid
  claims.roles[_] == "admin"
}
---
package http

import rego.v1

networks := {"office": "10.1.0.0/16", "home": "2001:db8::/32"}

allow if {
  some name, network in networks
  net.cidr_contains(network, input.request.realIP)
  not startswith(name, "h")
}

allow if {
  every part in input.request.path_parts { regex.match(`^[a-z0-9]*$`, part) }
  count([x | some x in numbers.range(1, 20); x % 3 == 0]) > 5
}
---
package http

office_hours {
  [hour, _, _] := time.clock([time.now_ns(), "Europe/Berlin"])
  hour >= 8
  hour < 18
}

level(user) = 2 { user == "ann" } else = 1 { user != "" }

allow = x { x := office_hours; level(input.request.query.user[0]) > 1; glob.match("/api/*/x", ["/"], input.request.path) }

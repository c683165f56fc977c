// Command ampoule-init is the first program of a guest that gets its
// credentials with its initial RAM disk. The host puts it there; nobody starts
// it by hand. It has to be linked statically and with its own entry point:
//
//	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w -E=ampoule_init_entry' ./cmd/ampoule-init
package main

import "github.com/ampoule-vm/ampoule/internal/shim"

func main() { shim.Main() }

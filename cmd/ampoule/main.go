// Command ampoule runs declarative microVMs.
package main

import (
	"os"

	"github.com/ampoule-vm/ampoule/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

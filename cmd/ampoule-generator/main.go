// Command ampoule-generator makes services of .microvm files when systemd boots
// or is told to reload. It links the standard library and Ampoule's pure packages
// alone (test/law).
package main

import (
	"os"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/generator"
)

func main() {
	os.Exit(generator.Main(os.Args[1:], all.Drivers(), os.Stderr))
}

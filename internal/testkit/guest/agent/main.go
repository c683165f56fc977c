// Command agent runs inside the test guest, as six different units of its
// overlay: the generator that names the credentials, the service that loads
// them, the one that reports on the console, the one that acts when the guest has
// started, the one that carries out a test's script, and the one that shows an
// orderly shutdown. It is one static program instead of shell scripts because under
// software emulation every process that starts costs a tenth of a second. Scripts
// find in it what the guest has no programs for (network.go).
//
// It imports the standard library and the scanner beside it alone, and is never
// part of the product.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	verb := filepath.Base(os.Args[0])
	args := os.Args[1:]
	if verb == "agent" && len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	var err error
	switch verb {
	case "ampoule-test":
		err = generate(args)
	case "load":
		err = load()
	case "report":
		err = reportAndAct()
	case "then":
		err = then()
	case "script":
		err = script()
	case "address":
		err = address(args)
	case "answer":
		err = answer(args)
	case "ask":
		err = ask(args)
	case "send":
		err = send(args)
	case "orderly":
		err = orderly()
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		// Generators have no standard error that anybody sees; the console is
		// where a test looks.
		fmt.Fprintln(os.Stderr, verb+":", err)
		_ = say("error " + verb + ": " + err.Error())
		os.Exit(1)
	}
}

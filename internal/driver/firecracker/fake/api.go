package fake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// action is what a request asks of the machine.
type action struct {
	do         do
	config     map[string]any
	deprecated string // what is said of a field that is on its way out
}

type do int

const (
	getInstance do = iota
	getVersion
	getConfig
	getMachine
	putBoot
	updateMachine
	putDrive
	putVsock
	putEntropy
	putLogger
	putMetrics
	putSerial
	putNetwork
	putBalloon
	patchBalloon
	patchStatistics
	getBalloon
	getStatistics
	putHotplug
	patchHotplug
	getHotplug
	startMachine
	pressKeys
	flushMetrics
)

// requestError is a mistake that is found before the machine is asked.
type requestError struct {
	text  string
	debug string // how it stands in the log
}

func generic(text string) *requestError {
	return &requestError{text, "Generic(BadRequest, " + strconv.Quote(text) + ")"}
}

func serdeFault(err *jsonError) string {
	return fmt.Sprintf("An error occurred when deserializing the json body of a request: %v.", err)
}

// fault is the answer to what is refused.
func fault(message string) response {
	return response{status: 400, body: asJSON(map[string]string{"fault_message": message})}
}

// asJSON writes without the escapes that only HTML needs.
func asJSON(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "{}"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// handle answers a request as ApiServer::handle_request does.
func (p *process) handle(r *request) response {
	path := r.path()
	p.log.say(levelInfo, inRequest, "The API server received a %s.", describe(r, path, p.log.max))
	a, bad, unplayed := parseRequest(r, path)
	switch {
	case unplayed != "":
		return response{status: 501, body: asJSON(map[string]string{"fault_message": "the stand-in does not play " + unplayed})}
	case bad != nil:
		p.log.say(levelError, inAPI, "%s", bad.debug)
		return fault(bad.text)
	}
	body, err := p.perform(a)
	var answer response
	switch {
	case err != nil:
		p.log.say(levelError, inRequest, "Received Error. Status code: 400 Bad Request. Message: %v", err)
		answer = fault(err.Error())
	case body == "":
		p.log.say(levelInfo, inRequest, "The request was executed successfully. Status code: 204 No Content.")
		answer = response{status: 204}
	default:
		p.log.say(levelInfo, inRequest, "The request was executed successfully. Status code: 200 OK.")
		answer = response{status: 200, body: body}
	}
	if a.deprecated != "" {
		p.log.say(levelWarn, inAPI, "%s", a.deprecated)
		answer.deprecated = true
	}
	return answer
}

// describe is what the log says of a request at Info: all of its body.
func describe(r *request, path string, at level) string {
	s := fmt.Sprintf("%s request on %s", methodName(r.method), strconv.Quote(path))
	switch {
	case r.body == nil || path == "/mmds":
		return s
	case path == "/cpu-config" && at < levelDebug:
		return s + ". To view the CPU template received by the API, configure log-level to DEBUG"
	case !utf8.Valid(r.body):
		return s + ` with body "inconvertible to UTF-8"`
	}
	return s + " with body " + strconv.Quote(string(r.body))
}

// methodName is Put of PUT.
func methodName(m string) string { return m[:1] + strings.ToLower(m[1:]) }

func alphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

// parseRequest finds what is asked for; unplayed names what only the real
// program does.
func parseRequest(r *request, path string) (a action, bad *requestError, unplayed string) {
	tokens := strings.Split(strings.TrimSuffix(strings.TrimLeft(path, "/"), "/"), "/")
	first, second := tokens[0], ""
	if len(tokens) > 1 {
		second = tokens[1]
	}
	switch r.method {
	case "GET":
		return parseGet(r, first, second)
	case "PUT":
		return parsePut(r, first, second, len(tokens) > 1)
	case "PATCH":
		switch {
		case first == "balloon" && r.body == nil && second == "hinting":
			return a, nil, "PATCH /balloon"
		case r.body == nil:
			return a, generic("Empty PATCH request."), ""
		case first == "machine-config":
			a, bad = parseMachineUpdate(r.body)
			return a, bad, ""
		case first == "balloon" && second == "statistics":
			a, bad = withBody(patchStatistics, r.body, statisticsSchema())
			return a, bad, ""
		case first == "balloon" && second != "hinting":
			a, bad = withBody(patchBalloon, r.body, balloonUpdateSchema())
			return a, bad, ""
		case first == "hotplug" && second == "memory":
			a, bad = withBody(patchHotplug, r.body, hotplugUpdateSchema())
			return a, bad, ""
		case unplayedPatch(first):
			return a, nil, "PATCH /" + first
		}
	case "DELETE":
		switch {
		case r.body != nil:
			return a, generic("Empty Delete request."), ""
		case first == "drives" || first == "pmem" || first == "network-interfaces":
			return a, nil, "DELETE /" + first
		}
	}
	return a, unknownPath(r, first), ""
}

func unplayedPatch(first string) bool {
	switch first {
	case "balloon", "drives", "mmds", "network-interfaces", "pmem", "vm":
		return true
	}
	return false
}

func unknownPath(r *request, first string) *requestError {
	return &requestError{
		fmt.Sprintf("Invalid request method and/or path: %s %s.", r.method, first),
		fmt.Sprintf("InvalidPathMethod(%s, %s)", strconv.Quote(first), methodName(r.method)),
	}
}

func parseGet(r *request, first, second string) (a action, bad *requestError, unplayed string) {
	if r.body != nil {
		return a, generic("GET request cannot have a body."), ""
	}
	switch {
	case first == "":
		a.do = getInstance
	case first == "version":
		a.do = getVersion
	case first == "vm" && second == "config":
		a.do = getConfig
	case first == "machine-config":
		a.do = getMachine
	case first == "balloon" && second == "":
		a.do = getBalloon
	case first == "balloon" && second == "statistics":
		a.do = getStatistics
	case first == "balloon" && second != "hinting":
		bad = generic("Unrecognized GET request path `" + second + "`.")
	case first == "hotplug" && second == "memory":
		a.do = getHotplug
	case first == "balloon" || first == "mmds":
		unplayed = "GET /" + first
	default:
		bad = unknownPath(r, first)
	}
	return a, bad, unplayed
}

func parsePut(r *request, first, second string, named bool) (a action, bad *requestError, unplayed string) {
	if r.body == nil {
		return a, generic("Empty PUT request."), ""
	}
	switch first {
	case "actions":
		a, bad = parseAction(r.body)
	case "boot-source":
		a, bad = withBody(putBoot, r.body, bootSchema())
	case "drives":
		a, bad = parseDrive(r.body, second, named)
	case "machine-config":
		if a, bad = withBody(updateMachine, r.body, machineSchema()); bad == nil && a.config["cpu_template"] != nil {
			a.deprecated = "PUT /machine-config: cpu_template field is deprecated."
		}
	case "vsock":
		if a, bad = withBody(putVsock, r.body, vsockSchema()); bad == nil && a.config["vsock_id"] != nil {
			a.deprecated = "PUT /vsock: vsock_id field is deprecated."
		}
	case "entropy":
		a, bad = withBody(putEntropy, r.body, entropySchema())
	case "serial":
		a, bad = withBody(putSerial, r.body, serialSchema())
	case "logger":
		a, bad = withBody(putLogger, r.body, loggerSchema())
	case "metrics":
		a, bad = withBody(putMetrics, r.body, metricsSchema())
	case "network-interfaces":
		a, bad = parseNetwork(r.body, second, named)
	case "balloon":
		a, bad = withBody(putBalloon, r.body, balloonSchema())
	case "cpu-config", "pmem", "mmds", "snapshot":
		return a, nil, "PUT /" + first
	case "hotplug":
		if bad = unknownPath(r, first); second == "memory" {
			a, bad = withBody(putHotplug, r.body, hotplugSchema())
		}
	default:
		bad = unknownPath(r, first)
	}
	return a, bad, ""
}

func withBody(d do, body []byte, s *schema) (action, *requestError) {
	config, err := decode(body, s)
	if err != nil {
		return action{}, &requestError{serdeFault(err), err.debug()}
	}
	return action{do: d, config: config}, nil
}

func parseAction(body []byte) (action, *requestError) {
	a, bad := withBody(startMachine, body, actionSchema())
	if bad != nil {
		return a, bad
	}
	switch a.config["action_type"] {
	case "FlushMetrics":
		a.do = flushMetrics
	case "SendCtrlAltDel":
		a.do = pressKeys
	}
	return a, nil
}

// checkID looks at the name in a path.
func checkID(id string, named bool) *requestError {
	switch {
	case !named || id == "":
		return &requestError{"The ID cannot be empty.", "EmptyID"}
	case strings.IndexFunc(id, func(r rune) bool { return r != '_' && !alphanumeric(r) }) >= 0:
		return &requestError{"API Resource IDs can only contain alphanumeric characters and underscores.", "InvalidID"}
	}
	return nil
}

func parseNetwork(body []byte, id string, named bool) (action, *requestError) {
	if bad := checkID(id, named); bad != nil {
		return action{}, bad
	}
	a, bad := withBody(putNetwork, body, networkSchema())
	if bad == nil && a.config["iface_id"] != id {
		bad = generic(fmt.Sprintf("The id from the path [%s] does not match the id from the body [%s]!", id, a.config["iface_id"]))
	}
	return a, bad
}

func parseDrive(body []byte, id string, named bool) (action, *requestError) {
	if bad := checkID(id, named); bad != nil {
		return action{}, bad
	}
	a, bad := withBody(putDrive, body, driveSchema())
	if bad == nil && a.config["drive_id"] != id {
		bad = generic("The id from the path does not match the id from the body!")
	}
	return a, bad
}

func parseMachineUpdate(body []byte) (action, *requestError) {
	a, bad := withBody(updateMachine, body, machineUpdateSchema())
	if bad != nil {
		return a, bad
	}
	empty := true
	for _, v := range a.config {
		empty = empty && v == nil
	}
	if empty {
		return a, generic("Empty PATCH request.")
	}
	if a.config["cpu_template"] != nil {
		a.deprecated = "PATCH /machine-config: cpu_template field is deprecated."
	}
	return a, nil
}

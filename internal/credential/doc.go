// Package credential brings the credentials of a VM together, by systemd's
// rules, and puts them into the form in which a guest receives them.
//
// There are two ways, and [Env].Directory decides. Under systemd its service
// manager has loaded everything as root, and $CREDENTIALS_DIRECTORY is
// authoritative: what is not there is an error. By hand the sources are read
// here: files, FIFOs, AF_UNIX stream sockets, directories, the credential
// stores, and encrypted ones through systemd-creds.
//
// Values stay in package secret from the first byte on; no message repeats one.
// The rules that need no value, names and limits above all, are in package
// rule. Hypervisors, their options and which channel is chosen do not belong
// here.
package credential

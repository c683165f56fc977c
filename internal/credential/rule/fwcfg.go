package rule

import "fmt"

const (
	// FwCfgPrefix begins the fw_cfg keys under which a guest's systemd looks
	// for credentials. The value is raw.
	FwCfgPrefix = "opt/io.systemd.credentials/"
	// FwCfgMaxKey is the length of a fw_cfg key in bytes.
	FwCfgMaxKey = 55
	// FwCfgMaxName is what the prefix leaves for the credential's name.
	FwCfgMaxName = FwCfgMaxKey - len(FwCfgPrefix)
)

// FwCfgKey returns the fw_cfg key of a credential, or a [Refusal].
func FwCfgKey(name string) (string, error) {
	if err := Name(name); err != nil {
		return "", &Refusal{name, err.Error()}
	}
	if len(name) > FwCfgMaxName {
		return "", &Refusal{name, fmt.Sprintf("its name has %d bytes, at most %d are possible over fw_cfg", len(name), FwCfgMaxName)}
	}
	return FwCfgPrefix + name, nil
}

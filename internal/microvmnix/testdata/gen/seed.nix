# The guests of the document that the project starts from: test-vm, whose microvm-run was
# customised where microvm.nix writes its own over it, and app-vm-01, which works.
{ lib, pkgs }:

rec {
  credentials = {
    API_KEY = "/run/secrets/vars/test-vm-secrets/api-key";
    DB_PASSWORD = "/run/secrets/vars/test-vm-secrets/db-password";
    JWT_SECRET = "/run/secrets/vars/test-vm-secrets/jwt-secret";
  };

  # What the operator wrote: microvm.nix's template, and the credentials in OEM strings.
  customised = config:
    let
      microvm = config.microvm;
      hostName = config.networking.hostName;
    in
    ''
      set -eou pipefail

      # Loading Runtime Secrets
      echo "Loading Runtime Secrets for ${hostName}" >&2
      OEM_STRINGS="io.systemd.credential:ENVIRONMENT=production"
      if [ -n "''${CREDENTIALS_DIRECTORY:-}" ]; then
        for name in ${toString (lib.attrNames credentials)}; do
          if [ -f "$CREDENTIALS_DIRECTORY/$name" ]; then
            value=$(base64 -w0 < "$CREDENTIALS_DIRECTORY/$name")
            OEM_STRINGS="$OEM_STRINGS,io.systemd.credential.binary:$name=$value"
          else
            echo "credential $name is missing" >&2
          fi
        done
      else
        echo "no credentials directory" >&2
      fi

      rm -f '${microvm.socket}'

      exec -a "microvm@${hostName}" ${microvm.cloud-hypervisor.package}/bin/cloud-hypervisor \
        --cpus boot=${toString microvm.vcpu} \
        --watchdog \
        --kernel ${microvm.kernel.dev}/vmlinux \
        --initramfs ${microvm.initrdPath} \
        --cmdline "console=ttyS0 reboot=t panic=-1 ${toString microvm.kernelParams}" \
        --memory size=${toString microvm.mem}M,mergeable=on,shared=off \
        --platform "oem_strings=[$OEM_STRINGS]" \
        --console null \
        --serial tty \
        --disk path=${microvm.storeDisk},readonly=on \
        --net tap=vm-test,mac=02:00:00:00:00:01 \
        --api-socket ${microvm.socket}
    '';

  machine = { config, ... }: {
    microvm = {
      hypervisor = "cloud-hypervisor";
      vcpu = 2;
      mem = 1024;
      interfaces = [ { type = "tap"; id = "vm-test"; mac = "02:00:00:00:00:01"; } ];
      # It changes nothing: lib/runner.nix takes its own.
      binScripts.microvm-run = lib.mkForce (customised config);
    };
  };

  guests = {
    cloud-hypervisor-seed = {
      imports = [ machine ];
      networking.hostName = "test-vm";
      system.nixos.label = "25.11.20250921.a1f79a1";
    };
    # By a runner of its own, which is what app-vm-01 must have had.
    cloud-hypervisor-app-vm-01 = { config, ... }: {
      imports = [ machine ];
      networking.hostName = "app-vm-01";
      system.nixos.label = "25.11.20250921.a1f79a1";
      microvm.declaredRunner = lib.mkForce (
        let
          generated = config.microvm.runner.cloud-hypervisor;
          script = pkgs.writeShellScript "microvm-app-vm-01-microvm-run" (customised config);
        in
        pkgs.runCommand "microvm-cloud-hypervisor-app-vm-01" { inherit (generated) passthru; } ''
          mkdir -p "$out/bin"
          cp -P ${generated}/bin/* "$out/bin/"
          ln -sf ${script} "$out/bin/microvm-run"
          ln -s ${generated}/share "$out/share"
        ''
      );
    };
  };

  # Scripts that lie in the store and are in no runner: what the operator's text became.
  unreferenced.cloud-hypervisor-seed = config: [
    (pkgs.writeShellScript "microvm-${config.networking.hostName}-microvm-run" (customised config))
  ];
}

# Stand-ins for the packages of nixpkgs that microvm.nix's modules name, and for the
# builders by which they write files. The builders make the files that those of nixpkgs
# make (pkgs/build-support/trivial-builders of NixOS/nixpkgs at 00ee9b64), byte for byte,
# with /bin/sh and the programs in PATH of the machine that builds; a package is a
# directory with a file of one line for each program. So what is generated is real, and
# nothing in it runs.
{ lib }:

let
  system = "x86_64-linux";

  # A derivation whose builder is a POSIX shell. Extra attributes are the environment of
  # the builder; passthru is for those who evaluate alone.
  shell =
    { name, command, environment ? { }, outputs ? [ "out" ], passthru ? { }, meta ? { } }:
    let
      made = derivation (environment // {
        name = lib.strings.sanitizeDerivationName name;
        inherit system outputs command;
        builder = "/bin/sh";
        args = [ "-euc" ''PATH=/usr/bin:/bin; . "$commandPath"'' ];
        passAsFile = [ "command" ] ++ environment.passAsFile or [ ];
      });
    in
    lib.extendDerivation true ({ inherit meta passthru; } // passthru) made;

  runCommand = name: environment: command: shell {
    inherit name command;
    environment = removeAttrs environment [ "meta" "passthru" "nativeBuildInputs" "preferLocalBuild" "allowSubstitutes" "__structuredAttrs" "unsafeDiscardReferences" ];
    meta = environment.meta or { };
    passthru = environment.passthru or { };
  };

  writeTextFile = { name, text, executable ? false, destination ? "", meta ? { }, derivationName ? name }:
    runCommand derivationName { inherit text meta; passAsFile = [ "text" ]; } ''
      target="$out"${lib.escapeShellArg destination}
      mkdir -p "$(dirname "$target")"
      cp "$textPath" "$target"
      chmod ${if executable then "555" else "444"} "$target"
    '';

  # A package NAME-VERSION with programs in bin/. With `suffix` its first output is called so.
  package = pname: version: { bin ? [ ], files ? [ ], suffix ? "", outputs ? [ "out" ], attributes ? { } }:
    let
      name = "${pname}-${version}";
      made = shell {
        name = name + suffix;
        inherit outputs;
        command = lib.concatMapStrings (file: ''
          mkdir -p "$(dirname ${file})"
          echo 'stands for a file of ${name}' > ${file}
        '') (map (program: "$out/bin/${program}") bin ++ files)
        + lib.concatMapStrings (output: ''mkdir -p "''$${output}"
        '') outputs;
        meta.mainProgram = lib.head (bin ++ [ pname ]);
      };
    in
    let self = made // { inherit pname version; override = _: self; overrideAttrs = _: self; } // attributes; in self;

  bash = package "bash" "5.3p9" { bin = [ "bash" "sh" ]; };
  runtimeShell = "${bash}/bin/bash";

  kernel = package "linux" "6.18.26" {
    outputs = [ "out" "dev" "modules" ];
    files = [ "$out/bzImage" "$dev/vmlinux" "$modules/lib/modules/6.18.26/modules.order" ];
    attributes.target = "bzImage";
  };

  qemuPackage = name: package name "10.2.2" {
    bin = [ "qemu-system-x86_64" "qemu-img" ];
    attributes.configureFlags = [ "--enable-seccomp" ];
  };

  self = rec {
    _type = "pkgs";
    inherit lib system bash runtimeShell runCommand writeTextFile;
    path = ./nixpkgs;
    buildPackages = self;
    stdenv = rec {
      inherit system;
      hostPlatform = lib.systems.elaborate system // { linux-kernel.target = "bzImage"; };
      buildPlatform = hostPlatform;
      targetPlatform = hostPlatform;
    };
    callPackage = file: arguments:
      let function = import file; in
      function (builtins.intersectAttrs (builtins.functionArgs function) self // arguments);

    # A disk of hundreds of megabytes that is not what is looked at here.
    runCommandLocal = name: environment: _: runCommand name { inherit (environment) passthru; } ''
      echo 'stands for ${name}' > "$out"
    '';

    writeText = name: text: writeTextFile { inherit name text; };
    writeShellScript = name: text: writeTextFile {
      inherit name;
      executable = true;
      text = ''
        #!${runtimeShell}
        ${text}
      '';
    };
    writeScriptBin = name: text: writeTextFile {
      inherit name text;
      executable = true;
      destination = "/bin/${name}";
      meta.mainProgram = name;
    };
    writeShellScriptBin = name: text: writeTextFile {
      inherit name;
      executable = true;
      destination = "/bin/${name}";
      text = ''
        #!${runtimeShell}
        ${text}
      '';
      meta.mainProgram = name;
    };
    # nixpkgs pretty-prints with jq: two blanks for a level, sorted keys.
    writers.writeJSON = name: value: runCommand name { text = builtins.toJSON value; passAsFile = [ "text" ]; } ''
      python3 -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1])), indent=2, ensure_ascii=False))' "$textPath" > "$out"
    '';
    writers.writePython3 = name: _: file: runCommand name { } ''
      { echo '#!${python3}/bin/python3'; cat ${file}; } > "$out"
      chmod 555 "$out"
    '';
    replaceVars = file: variables: runCommand (baseNameOf file) { } ''
      cp ${file} "$out"
      chmod 644 "$out"
      ${lib.concatStrings (lib.mapAttrsToList (name: value: ''
        sed -i 's/@${name}@/${toString value}/g' "$out"
      '') variables)}
    '';
    closureInfo = { rootPaths }: runCommand "closure-info" { } ''
      mkdir "$out"
      echo '${toString rootPaths}' > "$out/registration"
    '';
    writeClosure = paths: runCommand "references" { } ''
      echo '${toString paths}' > "$out"
    '';

    linux = kernel;
    linuxPackages = { inherit kernel; };
    systemd = package "systemd" "259.3" { bin = [ "busctl" "systemctl" ]; files = [ "$out/lib/systemd/systemd" ]; };
    coreutils = package "coreutils" "9.10" { bin = [ "rm" "ln" "mkdir" ]; };
    coreutils-full = package "coreutils-full" "9.10" { bin = [ "chown" ]; };
    findutils = package "findutils" "4.10.0" { bin = [ "find" ]; };
    gnugrep = package "gnugrep" "3.12" { bin = [ "grep" ]; };
    gnused = package "gnused" "4.9" { bin = [ "sed" ]; };
    gawk = package "gawk" "5.3.2" { bin = [ "awk" ]; };
    git = package "git" "2.53.0" { bin = [ "git" ]; };
    nix = package "nix" "2.31.3" { bin = [ "nix" "nix-store" "nix-env" ]; };
    openssh = package "openssh" "10.2p1" { bin = [ "ssh" ]; };
    procps = package "procps" "4.0.4" { bin = [ "pgrep" ]; };
    jq = package "jq" "1.8.1" { suffix = "-bin"; bin = [ "jq" ]; };
    curl = package "curl" "8.19.0" { suffix = "-bin"; bin = [ "curl" ]; };
    util-linux = package "util-linux" "2.41.3" { suffix = "-bin"; bin = [ "waitpid" ]; };
    socat = package "socat" "1.8.1.0" { bin = [ "socat" ]; };
    netcat = package "libressl" "4.2.1" { suffix = "-nc"; bin = [ "nc" ]; };
    iproute2 = package "iproute2" "6.19.0" { bin = [ "ip" ]; };
    kmod = package "kmod" "31" { bin = [ "modprobe" ]; };
    expect = package "expect" "5.45.4" { bin = [ "unbuffer" ]; };
    python3 = package "python3" "3.13.12" { bin = [ "python3" ]; };
    python3Packages.supervisor = package "python3.13-supervisor" "4.3.0" { bin = [ "supervisord" "supervisorctl" ]; };
    tzdata = package "tzdata" "2026a" { files = [ "$out/share/zoneinfo/UTC" ]; };
    glibcLocales = package "glibc-locales" "2.42-51" { files = [ "$out/lib/locale/locale-archive" ]; };
    e2fsprogs = package "e2fsprogs" "1.47.3" { suffix = "-bin"; bin = [ "mkfs.ext4" ]; };
    xfsprogs = package "xfsprogs" "6.17.0" { suffix = "-bin"; bin = [ "mkfs.xfs" ]; };
    btrfs-progs = package "btrfs-progs" "6.17.1" { bin = [ "mkfs.btrfs" ]; };
    dosfstools = package "dosfstools" "4.2" { bin = [ "mkfs.vfat" ]; };
    erofs-utils = package "erofs-utils" "1.9" { bin = [ "mkfs.erofs" ]; };
    squashfs-tools-ng = package "squashfs-tools-ng" "1.3.2" { bin = [ "gensquashfs" ]; };
    time = package "time" "1.9" { bin = [ "time" ]; };
    bubblewrap = package "bubblewrap" "0.11.0" { bin = [ "bwrap" ]; };
    virtiofsd = package "virtiofsd" "1.13.3" { bin = [ "virtiofsd" ]; };
    qemu-utils = package "qemu-utils" "10.2.2" { files = [ "$out/libexec/qemu-bridge-helper" ]; };
    qemu = qemuPackage "qemu";
    qemu_kvm = qemuPackage "qemu-host-cpu-only-for-vm-tests";
    libusb1 = package "libusb" "1.0.29" { };
    cloud-hypervisor = package "cloud-hypervisor" "52.0" { bin = [ "cloud-hypervisor" "ch-remote" ]; };
    cloud-hypervisor-graphics = package "cloud-hypervisor-graphics" "52.0" { bin = [ "cloud-hypervisor" "ch-remote" ]; };
    firecracker = package "firecracker" "1.14.4" { bin = [ "firecracker" "jailer" ]; };
    crosvm = package "crosvm" "0-unstable-2026-07-20" { bin = [ "crosvm" ]; };
    kvmtool = package "kvmtool" "0-unstable-2026-02-12" { bin = [ "lkvm" ]; };
    stratovirt = package "stratovirt" "2.4.0" { bin = [ "stratovirt" ]; };
    alioth = package "alioth" "0.11.0" { bin = [ "alioth" ]; };
    vfkit = package "vfkit" "0.6.1" { bin = [ "vfkit" ]; };
  };
in
self

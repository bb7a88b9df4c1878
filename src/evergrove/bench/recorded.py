"""What sysfs and procfs look like on a few kinds of device, as text by path: for the bench and the tests.

The names, kinds, units and the number of files are those of real devices; the numbers are round, so that what a reader
makes of them can be checked by hand.
"""

from pathlib import Path

Tree = dict[str, str]
"""What each file says, by its absolute path."""

THERMAL = "/sys/class/thermal"
SUPPLY = "/sys/class/power_supply"
CPUS = "/sys/devices/system/cpu"
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def plant(folder: Path, tree: Tree) -> Path:
    """Writes a tree below a folder; gives the folder, as a root."""
    for path, text in tree.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def phone() -> Tree:
    """A phone with eight cores in three clusters, on battery, on Wi-Fi: 84 zones, most of them of single cores."""
    tree = {
        **linux(8, memory_kb=2_000_000),
        **battery("battery", capacity=84, status="Discharging", current_ua=-412_000, voltage_uv=3_950_000),
        **supply("usb", "USB", online=0),
        **supply("wireless", "Wireless", online=0),
        **link("wlan0", 12),
        **link("rmnet_data0", 20, state="unknown", carrier="0"),
        "/proc/net/route": ROUTES + route("wlan0"),
    }
    for policy, (now_khz, most_khz) in {
        0: (900_000, 1_800_000),
        4: (1_200_000, 2_400_000),
        7: (750_000, 3_000_000),
    }.items():
        tree |= clock(f"{CPUS}/cpufreq/policy{policy}", now_khz, most_khz)
    named = [
        ("battery", 33_100, (("critical", 60_000),)),
        ("skin-therm", 36_500, (("passive", 43_000), ("passive", 46_000), ("critical", 95_000))),
        ("quiet-therm", 37_000, (("passive", 50_000),)),
        ("modem-0-usr", 38_000, (("passive", -274_000),)),
        ("wlan-therm", 36_000, ()),
        ("gpuss-0-usr", 41_000, (("passive", 95_000), ("critical", 110_000))),
        ("pm8150b-vbat", 0, ()),
        ("bcl-soc", 84_000, ()),
    ]
    cores = [
        (f"cpu-{i // 10}-{i % 10}-usr", 40_000 + 100 * i, (("passive", 95_000), ("critical", 110_000)))
        for i in range(76)
    ]
    for i, (kind, temp, trips) in enumerate([*named, *cores]):
        tree |= zone(i, kind, temp, trips, mode="disabled" if kind == "bcl-soc" else "enabled")
    return tree


def pi() -> Tree:
    """A Raspberry Pi 4 at 58.4 °C, warned twice since boot, on the mains as far as anybody knows."""
    return {
        **linux(4, memory_kb=3_000_000),
        **zone(0, "cpu-thermal", 58_426, (("critical", 110_000),)),
        **clock(f"{CPUS}/cpufreq/policy0", 1_500_000, 1_800_000),
        **chip(0, "cpu_thermal", {"temp1_input": "58426", "temp1_crit": "110000"}),
        **chip(1, "rpi_volt", {"in0_lcrit_alarm": "0"}),
        **link("eth0", 2),
        **link("wlan0", 3, state="down"),
        "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "/proc/net/route": ROUTES + route("eth0"),
        "/sys/class/power_supply/.keep": "",
        "/sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
    }


def jetson() -> Tree:
    """A Jetson Orin: an input rail of 5 V and 1.2 A beside two that it feeds, and a vision core that is off."""
    rails = {"1": ("VDD_IN", 5000, 1200), "2": ("VDD_CPU_GPU_CV", 5000, 400), "3": ("VDD_SOC", 5000, 300)}
    files: Tree = {}
    for n, (label, mv, ma) in rails.items():
        files |= {f"in{n}_label": label, f"in{n}_input": str(mv), f"curr{n}_input": str(ma), f"in{n}_enable": "1"}
    return {
        **linux(6, memory_kb=6_000_000),
        **zone(0, "cpu-thermal", 51_500, (("passive", 99_000), ("critical", 104_500))),
        **zone(1, "gpu-thermal", 50_250, (("passive", 99_000), ("critical", 104_500))),
        **zone(2, "cv0-thermal", 0, (("passive", 99_000),)),
        **zone(3, "tj-thermal", 51_500, (("active", 51_000), ("hot", 70_000), ("critical", 104_500))),
        **clock(f"{CPUS}/cpufreq/policy0", 729_600, 1_459_200),
        **chip(0, "ina3221", files),
        **link("eth0", 2),
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "/proc/net/route": ROUTES + route("eth0"),
        "/sys/class/power_supply/.keep": "",
    }


def laptop() -> Tree:
    """A laptop on the mains: two batteries, Intel's counters, an NVMe drive, a mouse, a zone that never moves."""
    tree = {
        **linux(4, memory_kb=8_000_000),
        **battery("BAT0", capacity=80, status="Charging", power_uw=12_000_000, full=("energy_full", 40_000_000)),
        **battery("BAT1", capacity=20, status="Not charging", power_uw=0, full=("energy_full", 20_000_000)),
        **supply("AC", "Mains", online=1),
        f"{SUPPLY}/hidpp_battery_0/type": "Battery\n",
        f"{SUPPLY}/hidpp_battery_0/scope": "Device\n",
        f"{SUPPLY}/hidpp_battery_0/capacity": "5\n",
        **zone(0, "acpitz", 27_800, (("critical", 119_000),)),
        **zone(1, "x86_pkg_temp", 62_000, (("passive", 0), ("passive", -274_000))),
        **zone(2, "iwlwifi_1", 45_000, ()),
        **chip(0, "acpitz", {"temp1_input": "27800"}),
        **chip(
            1,
            "nvme",
            {"temp1_input": "41850", "temp1_label": "Composite", "temp1_max": "81850", "temp1_crit": "84850"},
        ),
        **chip(
            2,
            "coretemp",
            {
                "temp1_input": "62000", "temp1_label": "Package id 0", "temp1_max": "100000", "temp1_crit": "100000",
                "temp2_input": "61000", "temp2_label": "Core 0", "temp3_input": "62000", "temp3_label": "Core 1",
            },
        ),
        **chip(3, "iwlwifi_1", {"temp1_input": "45000"}),
        **link("wlp3s0", 3),
        **link("docker0", 4),
        "/proc/net/route": ROUTES + route("wlp3s0"),
        "/run/NetworkManager/devices/3": "[device]\nconnection-uuid=00000000-0000-4000-8000-000000000001\n",
    }  # fmt: skip
    for n in range(4):
        tree |= clock(f"{CPUS}/cpufreq/policy{n}", 2_000_000, 4_000_000)
        tree[f"{CPUS}/cpu{n}/topology/physical_package_id"] = "0\n"
        tree[f"{CPUS}/cpu{n}/thermal_throttle/package_throttle_count"] = "7\n"
        tree[f"{CPUS}/cpu{n}/thermal_throttle/core_throttle_count"] = f"{n}\n"
    return tree


def server() -> Tree:
    """A virtual machine in a data centre: cores, memory, disk, a link, and no sensor at all."""
    return {
        **linux(2, memory_kb=16_000_000),
        **link("ens3", 2),
        "/proc/net/route": ROUTES + route("ens3"),
        "/sys/class/power_supply/.keep": "",
    }


def broken() -> Tree:
    """A device on which every sensor lies, each in its own way."""
    return {
        **battery("BAT0", capacity=65_535, status="Exploding", current_ua=412, voltage_uv=-1),
        **supply("AC", "Mains", online=-1),
        **zone(0, "cold", -273_150, (("critical", -1),)),
        **zone(1, "ones", 65_535, (("passive", 65_535_000),)),
        **zone(2, "zero", 0, ()),
        **zone(3, "degrees", 42, ()),
        f"{THERMAL}/thermal_zone4/type": "text\n",
        f"{THERMAL}/thermal_zone4/temp": "lukewarm\n",
        f"{THERMAL}/thermal_zone5/type": "empty\n",
        f"{THERMAL}/thermal_zone5/temp": "",
        f"{THERMAL}/thermal_zone6/type": "huge\n",
        f"{THERMAL}/thermal_zone6/temp": "4" * 100_000,
        f"{THERMAL}/thermal_zone7/type": "gone\n",
        **clock(f"{CPUS}/cpufreq/policy0", 9_000_000, 1_800_000),
        f"{CPUS}/cpu0/thermal_throttle/core_throttle_count": "-3\n",
        f"{CPUS}/online": "all of them\n",
        "/proc/stat": "cpu  many few\n",
        "/proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: lots kB\n",
        "/proc/pressure/cpu": "some avg10=nan avg60=0.00 avg300=0.00 total=0\n",
        "/proc/pressure/memory": "some avg10=101.00 avg60=0.00 avg300=0.00 total=0\n",
        "/proc/pressure/io": "",
        "/sys/class/net/eth0/operstate": "sideways\n",
        "/proc/net/route": "Iface\tDestination\nnonsense\n",
    }


# Parts


def linux(n_cores: int, memory_kb: int) -> Tree:
    """What every Linux tells: a quarter of all ticks busy since boot, a pressure of 12.5 % on the cores, memory."""
    return {
        f"{CPUS}/online": f"0-{n_cores - 1}\n",
        "/proc/stat": stat(busy=25_000, idle=75_000) + "cpu0 1 0 1 1 0 0 0 0 0 0\nintr 12345\n",
        "/proc/meminfo": f"MemTotal: {2 * memory_kb} kB\nMemAvailable: {memory_kb} kB\nBuffers: 1 kB\n",
        "/proc/pressure/cpu": pressure(12.5),
        "/proc/pressure/memory": pressure(0.0),
        "/proc/pressure/io": pressure(2.0),
    }


def stat(busy: int, idle: int) -> str:
    """The first line of /proc/stat after so many ticks in all cores together."""
    return f"cpu  {busy - 3} 1 1 {idle} 0 1 0 0 0 0\n"


def pressure(percent: float) -> str:
    """One file of /proc/pressure."""
    return f"some avg10={percent:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def zone(n: int, kind: str, temp: int, trips: tuple[tuple[str, int], ...], mode: str = "enabled") -> Tree:
    """A thermal zone, in thousandths of a degree."""
    base = f"{THERMAL}/thermal_zone{n}"
    tree = {f"{base}/type": f"{kind}\n", f"{base}/temp": f"{temp}\n", f"{base}/mode": f"{mode}\n"}
    for i, (trip, at) in enumerate(trips):
        tree |= {f"{base}/trip_point_{i}_type": f"{trip}\n", f"{base}/trip_point_{i}_temp": f"{at}\n"}
    return tree


def chip(n: int, name: str, files: Tree) -> Tree:
    """A chip of hwmon."""
    base = f"/sys/class/hwmon/hwmon{n}"
    return {f"{base}/name": f"{name}\n", **{f"{base}/{file}": f"{text}\n" for file, text in files.items()}}


def clock(base: str, now_khz: int, most_khz: int) -> Tree:
    """A frequency domain."""
    return {f"{base}/scaling_cur_freq": f"{now_khz}\n", f"{base}/cpuinfo_max_freq": f"{most_khz}\n"}


def supply(name: str, kind: str, online: int) -> Tree:
    """A charger."""
    return {f"{SUPPLY}/{name}/type": f"{kind}\n", f"{SUPPLY}/{name}/online": f"{online}\n"}


def battery(
    name: str,
    capacity: int,
    status: str,
    current_ua: int | None = None,
    voltage_uv: int = 12_000_000,
    power_uw: int | None = None,
    full: tuple[str, int] | None = None,
) -> Tree:
    """A battery; ``full`` is the file that says what it can hold, and how much."""
    base = f"{SUPPLY}/{name}"
    tree = {
        f"{base}/type": "Battery\n",
        f"{base}/present": "1\n",
        f"{base}/capacity": f"{capacity}\n",
        f"{base}/status": f"{status}\n",
        f"{base}/voltage_now": f"{voltage_uv}\n",
    }
    if current_ua is not None:
        tree[f"{base}/current_now"] = f"{current_ua}\n"
    if power_uw is not None:
        tree[f"{base}/power_now"] = f"{power_uw}\n"
    if full is not None:
        tree[f"{base}/{full[0]}"] = f"{full[1]}\n"
    return tree


def link(name: str, index: int, state: str = "up", carrier: str = "1") -> Tree:
    """A network link."""
    base = f"/sys/class/net/{name}"
    return {f"{base}/operstate": f"{state}\n", f"{base}/carrier": f"{carrier}\n", f"{base}/ifindex": f"{index}\n"}


def route(link: str, metric: int = 100) -> str:
    """A default route in /proc/net/route."""
    return f"{link}\t00000000\t0101A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n"
